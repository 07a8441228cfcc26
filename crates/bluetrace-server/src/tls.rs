//! Owns the server's certificate and TLS settings: [`ServerTls`] (PROTOCOL section 4.1).
//!
//! The certificate and its key are `certificate.pem` and `key.pem` in the data folder: made at the first start, or put there
//! by an operator. Clients pin the certificate's fingerprint, so the files are never replaced by themselves.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use thiserror::Error;
use yasna::tags::TAG_UTCTIME;
use yasna::{ASN1Result, BERReader, BERReaderSeq, Tag};

use crate::data_folder::write_whole;

/// What a TLS server needs, ready for use.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    fingerprint: String,
}

/// Why there is no certificate to serve with. Each text names the file and what to do.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}; give this user access to it", path = path.display())]
    File {
        /// What was tried: `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file holds no PEM text of the kind it should.
    #[error("{path} holds no {kind} in PEM form; put one there, or move both it and {other} away to have new ones made", path = path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        kind: &'static str,
        /// The file beside it.
        other: &'static str,
    },
    /// There is one of the two files.
    #[error("{present} is there, but {missing} is not; put it back, or move the first away to have new ones made", present = present.display(), missing = missing.display())]
    Half {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// The two files cannot be used together.
    #[error("{certificate} and {key} cannot be used together: {source}", certificate = certificate.display(), key = key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The system gave no randomness, or the like.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

impl ServerTls {
    /// Loads the certificate of a data folder; makes a self-signed one if there is none.
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong and what to do.
    pub fn open(data_folder: &Path) -> Result<Self, TlsError> {
        let files = Files { certificate: data_folder.join(CERTIFICATE_FILE), key: data_folder.join(KEY_FILE) };
        match (exists(&files.certificate)?, exists(&files.key)?) {
            (true, true) => {}
            (true, false) => return Err(TlsError::Half { present: files.certificate, missing: files.key }),
            // a start that was cut off between the two files; the key is written first
            (false, true) => make_certificate(&files, &load_own_key(&files)?)?,
            (false, false) => {
                let key = KeyPair::generate().map_err(|error| TlsError::Make(error.to_string()))?;
                write_whole(&files.key, &key.serialize_pem())
                    .map_err(|source| file_error("write", &files.key, source))?;
                make_certificate(&files, &key)?;
            }
        }
        load(&files)
    }

    /// Loads the certificate of a data folder; `None` if there is none. Makes nothing.
    ///
    /// # Errors
    /// As for [`ServerTls::open`].
    pub fn open_existing(data_folder: &Path) -> Result<Option<Self>, TlsError> {
        let files = Files { certificate: data_folder.join(CERTIFICATE_FILE), key: data_folder.join(KEY_FILE) };
        match (exists(&files.certificate)?, exists(&files.key)?) {
            (true, true) => load(&files).map(Some),
            (false, false) => Ok(None),
            (true, false) => Err(TlsError::Half { present: files.certificate, missing: files.key }),
            (false, true) => Err(TlsError::Half { present: files.key, missing: files.certificate }),
        }
    }

    /// The first and the last second at which the certificate is valid, in Unix seconds; `None` if it does not say.
    pub fn validity_unix(&self) -> Option<(i64, i64)> {
        // RFC 5280 section 4.1: Certificate { tbsCertificate { [0] version, serial, signature, issuer, validity, .. }, .. }
        let skip = |reader: BERReader<'_, '_>| reader.read_der().map(drop);
        let validity = |reader: &mut BERReaderSeq<'_, '_>| {
            reader.read_optional(|version| version.read_tagged(Tag::context(0), skip))?;
            (0..3).try_for_each(|_| skip(reader.next()))?;
            let times = reader.next().read_sequence(|times| Ok((time(times.next())?, time(times.next())?)))?;
            while reader.read_optional(skip)?.is_some() {}
            Ok(times)
        };
        let certificate = |reader: BERReader<'_, '_>| {
            reader.read_sequence(|certificate| {
                let validity = certificate.next().read_sequence(validity)?;
                skip(certificate.next())?;
                skip(certificate.next())?;
                Ok(validity)
            })
        };
        yasna::parse_der(&self.certificate, certificate).ok()
    }

    /// The settings for rustls: TLS 1.3 only, sessions resumable by ticket.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// `sha256:` and the SHA-256 of the certificate in DER form, in lower-case hexadecimal digits.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

fn load(files: &Files) -> Result<ServerTls, TlsError> {
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error, &files.certificate, "certificate", KEY_FILE))?;
    let Some(own) = chain.first() else {
        return Err(unreadable(pem::Error::NoItemsFound, &files.certificate, "certificate", KEY_FILE));
    };
    let (certificate, fingerprint) = (own.clone(), fingerprint(own));
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unreadable(error, &files.key, "private key", CERTIFICATE_FILE))?;
    let config = config(chain, key).map_err(|source| TlsError::Unusable {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    })?;
    Ok(ServerTls { config: Arc::new(config), certificate, fingerprint })
}

fn config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // tickets keep what resumption needs at the client, so that it costs the server nothing
    config.ticketer = ring::Ticketer::new()?;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// A time in either of the forms of RFC 5280.
fn time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    if reader.lookahead_tag()? == TAG_UTCTIME {
        reader.read_utctime().map(|time| time.datetime().unix_timestamp())
    } else {
        reader.read_generalized_time().map(|time| time.datetime().unix_timestamp())
    }
}

pub(crate) fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(certificate) {
        // writing to a String does not fail
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The key that an interrupted first start has left.
fn load_own_key(files: &Files) -> Result<KeyPair, TlsError> {
    let text = fs::read_to_string(&files.key).map_err(|source| file_error("read", &files.key, source))?;
    // an operator's key of another kind: its certificate is missing
    KeyPair::from_pem(&text)
        .map_err(|_| TlsError::Half { present: files.key.clone(), missing: files.certificate.clone() })
}

/// Makes a certificate that clients can only pin: it is signed by its own key and never expires (it is valid from 1975
/// to 4096, so that no clock matters).
fn make_certificate(files: &Files, key: &KeyPair) -> Result<(), TlsError> {
    let made = CertificateParams::new(["localhost", "127.0.0.1", "::1"].map(str::to_owned)).and_then(|mut params| {
        params.distinguished_name.push(DnType::CommonName, "BlueTrace authority");
        params.self_signed(key)
    });
    let certificate = made.map_err(|error| TlsError::Make(error.to_string()))?.pem();
    write_whole(&files.certificate, &certificate).map_err(|source| file_error("write", &files.certificate, source))
}

fn exists(path: &Path) -> Result<bool, TlsError> {
    path.try_exists().map_err(|source| file_error("read", path, source))
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> TlsError {
    TlsError::File { action, path: path.to_owned(), source }
}

fn unreadable(error: pem::Error, path: &Path, kind: &'static str, other: &'static str) -> TlsError {
    if let pem::Error::Io(source) = error {
        return file_error("read", path, source);
    }
    TlsError::Pem { path: path.to_owned(), kind, other }
}

const CERTIFICATE_FILE: &str = "certificate.pem";
const KEY_FILE: &str = "key.pem";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_made_at_the_first_start_is_used_ever_after() {
        let folder = tempfile::tempdir().unwrap();
        let first = ServerTls::open(folder.path()).unwrap();
        let second = ServerTls::open(folder.path()).unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        let digits = first.fingerprint().strip_prefix("sha256:").unwrap();
        assert_eq!(digits.len(), 64);
        assert!(digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left in the folder");
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        ServerTls::open(folder.path()).unwrap();
        let mode = fs::metadata(folder.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_first_start_cut_off_between_the_files_is_finished_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        ServerTls::open(folder.path()).unwrap();
        let key = fs::read(folder.path().join(KEY_FILE)).unwrap();
        fs::remove_file(folder.path().join(CERTIFICATE_FILE)).unwrap();
        ServerTls::open(folder.path()).unwrap();
        assert_eq!(fs::read(folder.path().join(KEY_FILE)).unwrap(), key);
    }

    #[test]
    fn an_operators_chain_is_served_by_its_first_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let own = CertificateParams::new(["authority.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let other_key = KeyPair::generate().unwrap();
        let other = CertificateParams::new(["other.example".to_owned()]).unwrap().self_signed(&other_key).unwrap();
        fs::write(folder.path().join(CERTIFICATE_FILE), format!("{}\n{}", own.pem(), other.pem())).unwrap();
        fs::write(folder.path().join(KEY_FILE), key.serialize_pem()).unwrap();
        assert_eq!(ServerTls::open(folder.path()).unwrap().fingerprint(), fingerprint(own.der()));
    }

    #[test]
    fn a_certificate_tells_how_long_it_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ServerTls::open_existing(folder.path()).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a look makes nothing");
        let key = KeyPair::generate().unwrap();
        for (from, until) in [(1975, 4096), (2020, 2049), (2020, 2050)] {
            let mut params = CertificateParams::new(["authority.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
            fs::write(folder.path().join(CERTIFICATE_FILE), params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(folder.path().join(KEY_FILE), key.serialize_pem()).unwrap();
            let tls = ServerTls::open_existing(folder.path()).unwrap().unwrap();
            let expected = (params.not_before.unix_timestamp(), params.not_after.unix_timestamp());
            assert_eq!(tls.validity_unix(), Some(expected));
        }
    }

    #[test]
    fn every_kind_of_key_that_rustls_reads_may_be_brought() {
        for (certificate, key) in [
            (include_str!("testdata/sec1.certificate.pem"), include_str!("testdata/sec1.key.pem")),
            (include_str!("testdata/pkcs1.certificate.pem"), include_str!("testdata/pkcs1.key.pem")),
            (include_str!("testdata/pkcs8.certificate.pem"), include_str!("testdata/pkcs8.key.pem")),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(CERTIFICATE_FILE), certificate).unwrap();
            fs::write(folder.path().join(KEY_FILE), key).unwrap();
            ServerTls::open(folder.path()).unwrap();
        }
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said_in_one_line_with_what_to_do() {
        let made = tempfile::tempdir().unwrap();
        ServerTls::open(made.path()).unwrap();
        let certificate = fs::read_to_string(made.path().join(CERTIFICATE_FILE)).unwrap();
        let other_key = KeyPair::generate().unwrap().serialize_pem();
        for (certificate, key, said) in [
            (Some("garbage"), Some(&*other_key), "certificate.pem holds no certificate in PEM form; put one there"),
            (Some(&*certificate), Some("garbage"), "key.pem holds no private key in PEM form; put one there"),
            (Some(&*certificate), Some(&*other_key), "key.pem cannot be used together"),
            (Some(&*certificate), None, "key.pem is not; put it back"),
            (None, Some("garbage"), "certificate.pem is not; put it back"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for (file, text) in [(CERTIFICATE_FILE, certificate), (KEY_FILE, key)] {
                if let Some(text) = text {
                    fs::write(folder.path().join(file), text).unwrap();
                }
            }
            let error = ServerTls::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
        let error = ServerTls::open(&made.path().join("missing")).unwrap_err().to_string();
        assert!(error.contains("cannot write") && error.contains("key.pem"), "{error}");
    }
}
