//! TLS of a client's connection: rustls with ring, certificates as PEM. Called by `channel`; made by whoever has read the files.

use std::{fmt, io, sync::Arc};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

/// Who is believed, and who we are. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

/// Certificates or a key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {problem}")]
pub struct InvalidTls {
    what: &'static str,
    problem: String,
}

/// A certificate (chain) and its key, as PEM.
#[derive(Clone, Copy)]
pub struct TlsIdentity<'a> {
    pub certificates: &'a [u8],
    pub key: &'a [u8],
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Believes servers whose certificate one of `authorities` (PEM) has signed, and shows them `identity` if they ask.
    ///
    /// # Errors
    /// [`InvalidTls`] for what is not PEM, empty, or does not fit together.
    pub fn new(authorities: &[u8], identity: Option<TlsIdentity<'_>>) -> Result<Tls, InvalidTls> {
        let mut roots = RootCertStore::empty();
        for authority in certificates("the authority's certificate", authorities)? {
            roots.add(authority).map_err(|error| invalid("the authority's certificate", error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("the protocol", error))?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates("the own certificate", identity.certificates)?;
                let key = PrivateKeyDer::from_pem_slice(identity.key).map_err(|error| invalid("the own key", error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| invalid("the own certificate and key", error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Tls(Arc::new(config)))
    }

    /// Greets the server at the other end of `stream`, which must be called `host`.
    pub(super) async fn greet<S>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.0.clone()).connect(name, stream).await
    }
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InvalidTls> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| invalid(what, error))?;
    match all.is_empty() {
        true => Err(invalid(what, "there is none in it")),
        false => Ok(all),
    }
}

fn invalid(what: &'static str, problem: impl fmt::Display) -> InvalidTls {
    InvalidTls { what, problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_named() {
        let refused = |authorities: &[u8]| Tls::new(authorities, None).unwrap_err().to_string();
        assert_eq!(refused(b"text"), "the authority's certificate: there is none in it");
        let garbled = refused(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(garbled.starts_with("the authority's certificate: "), "{garbled}");
    }
}
