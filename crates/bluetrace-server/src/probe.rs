//! Owns finding out who has a port: [`who_answers`]. For a person who looks after a server; no device needs it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use crate::tls::fingerprint;

/// Who answers at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nobody.
    Nobody,
    /// Somebody who speaks TLS 1.3 and holds the key of the certificate with this fingerprint, written as
    /// [`ServerTls::fingerprint`](crate::tls::ServerTls::fingerprint) writes it.
    Tls(String),
    /// Somebody who does not speak TLS 1.3, or not within a few seconds.
    NoTls,
}

/// Connects, looks at the certificate, and goes. Blocks for up to `patience` for each of three steps.
///
/// # Errors
/// [`io::Error`] if it cannot be found out: the address is out of reach.
pub fn who_answers(address: SocketAddr, patience: Duration) -> io::Result<Answer> {
    let mut stream = match TcpStream::connect_timeout(&address, patience) {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => return Ok(Answer::Nobody),
        stream => stream?,
    };
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let provider = Arc::new(ring::default_provider());
    let witness = Arc::new(Witness { provider: Arc::clone(&provider), seen: Mutex::default() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::from(address.ip())).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        if tls.complete_io(&mut stream).is_err() {
            return Ok(Answer::NoTls);
        }
    }
    tls.send_close_notify();
    // out of courtesy: what there was to be seen has been seen
    let _ = tls.complete_io(&mut stream);
    let seen = witness.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(seen.map_or(Answer::NoTls, Answer::Tls))
}

/// Believes any certificate, and remembers it. Nothing is ever told to who shows it.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<String>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(fingerprint(certificate));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
