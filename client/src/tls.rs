//! Whom to trust, and who one is, on connections that are encrypted.

use std::sync::{Arc, OnceLock};

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::Error;

/// A certificate and its key, both in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and those between it and its authority.
    pub certificates: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// How endpoints are spoken to that begin with `https://` or `unixs:`. The others are not encrypted,
/// whatever this says.
///
/// ```no_run
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use baton_client::{Client, Identity, Options, Tls};
///
/// let tls = Tls {
///     ca: std::fs::read("ca.pem")?,
///     identity: Some(Identity {
///         certificates: std::fs::read("client.pem")?,
///         key: std::fs::read("client-key.pem")?,
///     }),
///     ..Tls::default()
/// };
/// let options = Options { tls, ..Options::default() };
/// let client = Client::with_options(["https://10.0.0.1:2379"], options)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates, in PEM, of the authorities that are trusted. Empty: those the operating system trusts.
    pub ca: Vec<u8>,
    /// Who the client is, for servers that ask.
    pub identity: Option<Identity>,
    /// The name the server's certificate has to have, where it is not the endpoint's host.
    pub server_name: Option<String>,
    /// Take any certificate. Then the connection is encrypted to whoever answers: good for a trial, not
    /// against an attacker.
    pub insecure_skip_verify: bool,
}

/// [`Tls`] made ready for connections, when the first one needs it.
pub(crate) struct Ready {
    connector: OnceLock<Result<TlsConnector, String>>,
}

impl Ready {
    /// # Errors
    /// [`Error::Invalid`] if certificates or keys cannot be read.
    pub(crate) fn new(tls: &Tls) -> Result<Self, Error> {
        let ready = Self {
            connector: OnceLock::new(),
        };
        // The authorities of the operating system are only read when they are needed.
        if *tls != Tls::default() {
            ready.connector(tls).map_err(Error::Invalid)?;
        }
        Ok(ready)
    }

    pub(crate) fn connector(&self, tls: &Tls) -> Result<TlsConnector, String> {
        self.connector.get_or_init(|| connector(tls)).clone()
    }
}

/// The name to look for in the server's certificate.
pub(crate) fn server_name(tls: &Tls, host: &str) -> Result<ServerName<'static>, String> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no name of a server"))
}

fn connector(tls: &Tls) -> Result<TlsConnector, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if tls.insecure_skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone { provider }))
    } else {
        builder.with_root_certificates(authorities(tls)?)
    };
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates(&identity.certificates, "the client's certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&identity.key)
                .map_err(|error| format!("the client's key is no PEM of a private key: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("the client's certificate and key: {error}"))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn authorities(tls: &Tls) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    if tls.ca.is_empty() {
        let found = rustls_native_certs::load_native_certs();
        store.add_parsable_certificates(found.certs);
        if store.is_empty() {
            return Err(
                "the operating system has no trusted certificates; give those of the server's authority"
                    .to_owned(),
            );
        }
        return Ok(store);
    }
    for certificate in certificates(&tls.ca, "the authority's certificate")? {
        store
            .add(certificate)
            .map_err(|error| format!("the authority's certificate: {error}"))?;
    }
    Ok(store)
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| format!("{what} is no PEM: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("{what} is no PEM of a certificate"));
    }
    Ok(certificates)
}

/// Trusts whoever answers, as long as it has the key to what it shows.
#[derive(Debug)]
struct Anyone {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}
