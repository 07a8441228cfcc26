//! Owns sending a one-time code by a webhook: [`CodeWebhook`], a `POST` of `{"phoneNumber","text"}` as JSON. A status of 200 to 299
//! says that the message is on its way; a redirection is none.
//!
//! One connection a code: there are few, and one that is kept open is one that may be gone.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use axum::body::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Message, SendError};
use crate::http::json_text;
use crate::limits::CODE_DEADLINE;

/// Where codes are posted to: `https`, or `http` on this machine. `Debug` shows nothing of it, since such addresses are often secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

/// Why a text is no [`WebhookUrl`]. The texts hold nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WebhookUrlError {
    /// It is no address of HTTP.
    #[error("it is no address such as https://sms.example/send")]
    Form,
    /// It would send codes in the clear.
    #[error("http is for this machine alone (localhost, 127.0.0.1, [::1]); write https")]
    Plaintext,
    /// It has a name and a password in it.
    #[error("it has a user in it, before the @; put a token into a file and name that")]
    User,
}

/// A webhook that sends one-time codes.
pub struct CodeWebhook {
    url: WebhookUrl,
    authorization: Option<HeaderValue>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Why a webhook cannot be used.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// The system has no certificates to know others by.
    #[error(
        "this system has no certificates of authorities; install the package ca-certificates, or set SSL_CERT_FILE"
    )]
    NoRoots,
    /// The host's name cannot be in a certificate.
    #[error("the host's name in the webhook's address is none")]
    Name,
    /// The token cannot stand in a header.
    #[error("the token of the webhook is not one line of printable ASCII characters")]
    Token,
    /// TLS cannot be set up.
    #[error("TLS for the webhook: {0}")]
    Tls(#[from] rustls::Error),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageBody<'a> {
    phone_number: &'a str,
    text: &'a str,
}

impl WebhookUrl {
    /// Reads an address.
    ///
    /// # Errors
    /// [`WebhookUrlError`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, WebhookUrlError> {
        let uri: Uri = text.parse().map_err(|_| WebhookUrlError::Form)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(WebhookUrlError::Form);
        };
        if authority.as_str().contains('@') {
            return Err(WebhookUrlError::User);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (is_tls, usual_port) = match scheme {
            "https" => (true, 443),
            "http" if is_this_machine(&host) => (false, 80),
            "http" => return Err(WebhookUrlError::Plaintext),
            _ => return Err(WebhookUrlError::Form),
        };
        if host.is_empty() {
            return Err(WebhookUrlError::Form);
        }
        // what stands behind the host is a colon and a port, or the message would go to another port than was written
        let port = match authority.port_u16() {
            Some(port) if port != 0 => port,
            None if authority.as_str().len() == authority.host().len() => usual_port,
            Some(_) | None => return Err(WebhookUrlError::Form),
        };
        Ok(Self { uri, host, port, is_tls })
    }
}

impl CodeWebhook {
    /// A webhook that is known by the certificates of the system, with the bearer token that it is shown.
    ///
    /// # Errors
    /// [`WebhookError`] says what is missing.
    pub fn new(url: WebhookUrl, token: Option<&str>) -> Result<Self, WebhookError> {
        let mut roots = RootCertStore::empty();
        if url.is_tls {
            // one that cannot be read is passed over: there are a hundred others
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(WebhookError::NoRoots);
            }
        }
        Self::with_roots(url, token, roots)
    }

    fn with_roots(url: WebhookUrl, token: Option<&str>, roots: RootCertStore) -> Result<Self, WebhookError> {
        let authorization = token.map(|token| {
            let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| WebhookError::Token)?;
            value.set_sensitive(true);
            if is_token { Ok(value) } else { Err(WebhookError::Token) }
        });
        let tls = if url.is_tls {
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_root_certificates(roots)
                .with_no_client_auth();
            let name = ServerName::try_from(url.host.clone()).map_err(|_| WebhookError::Name)?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self { authorization: authorization.transpose()?, tls, url })
    }

    pub(super) async fn send(&self, message: &Message<'_>) -> Result<(), SendError> {
        let status = timeout(CODE_DEADLINE, self.post(message)).await.map_err(|_| SendError::TooSlow)?;
        match status.map_err(|_| SendError::NotReached)? {
            200..=299 => Ok(()),
            status => Err(SendError::Refused(status)),
        }
    }

    async fn post(&self, message: &Message<'_>) -> io::Result<u16> {
        let stream = self.connect().await?;
        stream.set_nodelay(true)?;
        let request = self.request(message)?;
        match &self.tls {
            Some((tls, name)) => exchange(tls.connect(name.clone(), stream).await?, request).await,
            None => exchange(stream, request).await,
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let mut failed = io::ErrorKind::NotFound.into();
        for address in lookup_host((&*self.url.host, self.url.port)).await? {
            // what `localhost` means is for others to say
            if !self.url.is_tls && !SocketAddr::ip(&address).is_loopback() {
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn request(&self, message: &Message<'_>) -> io::Result<Request<Full<Bytes>>> {
        let path = self.url.uri.path_and_query().map_or("/", |path| path.as_str());
        let authority = self.url.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::post(path)
            .header(HOST, authority)
            .header(USER_AGENT, "bluetrace")
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = json_text(&MessageBody { phone_number: message.number.reveal(), text: message.text.reveal() });
        request.body(Full::from(body)).map_err(io::Error::other)
    }
}

/// One request, and the status of its answer.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<u16>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let mut connection = pin!(connection);
    let mut answer = pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // a peer that closes behind its answer has given it
        _ = &mut connection => answer.await,
    };
    Ok(answer.map_err(io::Error::other)?.status().as_u16())
}

fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookUrl(..)")
    }
}

impl fmt::Debug for CodeWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeWebhook(..)")
    }
}

#[cfg(test)]
mod tests {
    use bluetrace_authority::registration::PhoneNumber;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::code_sender::MessageText;
    use crate::tls::ServerTls;

    #[test]
    fn codes_leave_this_machine_over_https_alone() {
        for url in [
            "https://sms.example/send",
            "https://sms.example:8443/send?key=x",
            "https://192.0.2.1",
            "http://localhost:8080/send",
            "http://127.0.0.1/",
            "http://[::1]:9/x",
        ] {
            assert!(WebhookUrl::parse(url).is_ok(), "{url}");
        }
        for (url, error) in [
            ("", WebhookUrlError::Form),
            ("/send", WebhookUrlError::Form),
            ("sms.example", WebhookUrlError::Form),
            ("ftp://sms.example/", WebhookUrlError::Form),
            ("https://sms.example:99999/", WebhookUrlError::Form),
            ("https://sms.example:0/", WebhookUrlError::Form),
            ("https://sms.example:/", WebhookUrlError::Form),
            ("http://sms.example/", WebhookUrlError::Plaintext),
            ("http://localhost.example/", WebhookUrlError::Plaintext),
            ("http://192.0.2.1/", WebhookUrlError::Plaintext),
            ("https://me:secret@sms.example/", WebhookUrlError::User),
        ] {
            assert_eq!(WebhookUrl::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn neither_address_nor_token_is_shown() {
        let url = WebhookUrl::parse("http://127.0.0.1/secret").unwrap();
        let webhook = CodeWebhook::new(url.clone(), Some("s3cret")).unwrap();
        assert_eq!(format!("{url:?} {webhook:?}"), "WebhookUrl(..) CodeWebhook(..)");
        for token in ["", "two words", "line\n"] {
            assert!(matches!(CodeWebhook::new(url.clone(), Some(token)), Err(WebhookError::Token)), "{token:?}");
        }
    }

    #[tokio::test]
    async fn a_webhook_is_believed_by_a_certificate_that_is_trusted_and_by_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let tls = TlsAcceptor::from(ServerTls::open(folder.path()).unwrap().config());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = WebhookUrl::parse(&format!("https://localhost:{}/", listener.local_addr().unwrap().port())).unwrap();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = tls.accept(stream).await else { continue };
                // a peer that believes no certificate says nothing
                if stream.read(&mut [0; 4_096]).await.is_ok_and(|read| read > 0) {
                    _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
                }
            }
        });
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.path().join("certificate.pem")).unwrap()).unwrap();
        let trusting = CodeWebhook::with_roots(url.clone(), None, roots).unwrap();
        assert_eq!(send(&trusting).await, Ok(()));
        let other = tempfile::tempdir().unwrap();
        ServerTls::open(other.path()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(other.path().join("certificate.pem")).unwrap()).unwrap();
        let doubting = CodeWebhook::with_roots(url, None, roots).unwrap();
        assert_eq!(send(&doubting).await, Err(SendError::NotReached));
        serving.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_webhook_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = WebhookUrl::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let webhook = CodeWebhook::new(url, None).unwrap();
        assert_eq!(send(&webhook).await, Err(SendError::TooSlow));
    }

    async fn send(webhook: &CodeWebhook) -> Result<(), SendError> {
        let number = PhoneNumber::parse("+6591234567").unwrap();
        let text = MessageText::from("your code is 123456".to_owned());
        webhook.send(&Message { number: &number, text }).await
    }
}
