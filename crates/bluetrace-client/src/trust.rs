//! Owns the trust in a server's certificate. Nobody vouches for it, so the first one seen is remembered, as ssh does, and every
//! later one must be the same.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

use crate::known_servers::Fingerprint;
use crate::servers::ServerAddress;

/// A server whose certificate is not the remembered one.
#[derive(Debug, Clone)]
pub struct CertificateChanged {
    /// Which server.
    pub server: ServerAddress,
    /// What is remembered of it.
    pub expected: Fingerprint,
    /// What it shows.
    pub shown: Fingerprint,
    /// The file that remembers.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: usize,
}

/// Two lines: what is wrong, and what to do.
impl fmt::Display for CertificateChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the certificate of {} has changed; nothing was sent", self.server)?;
        write!(f, "if its operator confirms it, remove line {} of {}", self.line, self.file.display())
    }
}

impl CertificateChanged {
    /// The same at length for a person, who may have to compare the fingerprints.
    pub fn at_length(&self) -> String {
        format!(
            "the certificate of {} is not the one it had before.\n\
             Someone may be listening in between. Nothing was sent.\n  \
             remembered: {}\n  \
             shown now:  {}\n\
             If its operator says that the new one is right, remove line {} of {}, and start again",
            self.server,
            self.expected,
            self.shown,
            self.line,
            self.file.display()
        )
    }
}

/// Accepts the expected certificate, or, where none is expected, any; and remembers which was shown.
#[derive(Debug)]
pub(crate) struct PinnedCertificate {
    provider: Arc<CryptoProvider>,
    pin: Mutex<Pinned>,
}

#[derive(Debug, Default)]
struct Pinned {
    expected: Option<Fingerprint>,
    shown: Option<Fingerprint>,
}

impl PinnedCertificate {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self { provider, pin: Mutex::default() }
    }

    pub(crate) fn expect(&self, expected: Option<Fingerprint>) {
        *self.pin.lock().unwrap_or_else(PoisonError::into_inner) = Pinned { expected, shown: None };
    }

    pub(crate) fn shown(&self) -> Option<Fingerprint> {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).shown
    }
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        let mut pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        pin.shown = Some(shown);
        if pin.expected.is_none_or(|expected| expected == shown) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
