//! How etcd is reached, as the configuration says it: reads the certificates. Called by whoever plugs etcd in: the node, the gateway.

use super::StartError;
use crate::{
    config::Config,
    coordination::etcd::{EtcdOptions, EtcdUser},
    rt::rpc::{Tls, TlsIdentity},
};
use std::path::Path;

/// The options of `config.etcd`; none if it names no endpoint. Blocking: reads up to three small files.
///
/// # Errors
/// A file of `etcd.tls` cannot be read or used.
pub fn etcd_options(config: &Config) -> Result<Option<EtcdOptions>, StartError> {
    let etcd = &config.etcd;
    if etcd.endpoints.is_empty() {
        return Ok(None);
    }
    let endpoints = etcd.endpoints.iter().map(|endpoint| endpoint.as_str().to_owned()).collect();
    let mut options = EtcdOptions::new(endpoints, config.cluster.name.as_str());
    options.user = etcd.username.as_ref().map(|name| EtcdUser {
        name: name.clone(),
        password: etcd.password.as_ref().map_or_else(String::new, |password| password.reveal().to_owned()),
    });
    if let Some(ca_file) = &etcd.tls.ca_file {
        let authorities = read("etcd.tls.ca_file", ca_file)?;
        let own = match (&etcd.tls.cert_file, &etcd.tls.key_file) {
            (Some(certificates), Some(key)) => {
                Some((read("etcd.tls.cert_file", certificates)?, read("etcd.tls.key_file", key)?))
            }
            _ => None,
        };
        let identity = own.as_ref().map(|(certificates, key)| TlsIdentity { certificates, key });
        let tls = Tls::new(&authorities, identity).map_err(|error| StartError::Etcd(format!("etcd.tls: {error}")))?;
        options.rpc.tls = Some(tls);
    }
    Ok(Some(options))
}

fn read(key: &str, file: &Path) -> Result<Vec<u8>, StartError> {
    std::fs::read(file).map_err(|error| StartError::Etcd(format!("{key}: {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Assignment, Sources, load};

    fn configured(settings: &[(&str, &str)]) -> Config {
        let flags = settings.iter().map(|(key, value)| Assignment::named("--set", key, *value)).collect();
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        load(&Sources { file: None, variables: Vec::new(), flags, read: &read }).unwrap().config
    }

    #[test]
    fn what_the_configuration_says_is_taken_over() {
        assert!(etcd_options(&Config::default()).unwrap().is_none());
        let endpoints = ("etcd.endpoints", "a:1,http://b:2");
        let config = configured(&[endpoints, ("etcd.username", "u"), ("etcd.password", "p"), ("cluster.name", "c")]);
        let options = etcd_options(&config).unwrap().unwrap();
        let user = options.user.unwrap();
        assert_eq!((&user.name[..], &user.password[..], &options.cluster[..]), ("u", "p", "c"));
        assert_eq!(options.endpoints, ["a:1", "http://b:2"]);
        assert!(options.rpc.tls.is_none());
        let missing = configured(&[endpoints, ("etcd.tls.ca_file", "/nowhere/ca.pem")]);
        let refused = etcd_options(&missing).unwrap_err().to_string();
        assert!(refused.contains("etcd.tls.ca_file: /nowhere/ca.pem: "), "{refused}");
    }
}
