//! Certificates for tests.

use std::path::{Path, PathBuf};

use stolon_store::{Entry, StoreError, StoreOptions, TlsVerification};
use stolon_testkit::etcd::Access;

use crate::suite::within;

/// Certificates and keys in files.
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    /// An authority, a certificate for 127.0.0.1 and one for a client; and an authority that signed neither.
    pub fn new() -> Self {
        let certificates = Certificates { directory: tempfile::tempdir().expect("a directory") };
        certificates.make();
        certificates
    }

    /// Make all of them, in the place of those that are there.
    pub fn make(&self) {
        let write =
            |name: &str, text: String| std::fs::write(self.directory.path().join(name), text).expect("write");
        let authority = |name: &str| {
            let mut parameters = rcgen::CertificateParams::default();
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
            let key = rcgen::KeyPair::generate().expect("a key");
            let certificate = parameters.self_signed(&key).expect("a certificate");
            (certificate.pem(), rcgen::Issuer::new(parameters, key))
        };
        let (pem, issuer) = authority("authority");
        write("ca.pem", pem);
        write("other-ca.pem", authority("other").0);
        for (name, usage) in [
            ("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth),
            ("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let mut parameters = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
            // etcd asks its own members, too, so a server is also a client.
            parameters.extended_key_usages = vec![usage, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            let key = rcgen::KeyPair::generate().expect("a key");
            let certificate = parameters.signed_by(&key, &issuer).expect("a certificate");
            write(&format!("{name}.pem"), certificate.pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
    }

    /// A server that shows its certificate, and wants one that the same authority has signed.
    pub fn access(&self) -> Access {
        Access::Https {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_authority: Some(self.path("ca.pem")),
        }
    }

    /// A client that shows its certificate, and believes the authority.
    pub fn shown_in(&self, options: StoreOptions) -> StoreOptions {
        StoreOptions {
            ca_file: Some(self.path("ca.pem")),
            cert_file: Some(self.path("client.pem")),
            key_file: Some(self.path("client.key")),
            ..options
        }
    }

    /// One of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }
}

/// A store with these certificates lets nobody in without one of its authority, and nobody is fooled by one of another authority. `good`
/// lets in, `ask` asks for a key that is not there.
pub async fn tls_proves_both_sides(
    certificates: &Certificates,
    good: &StoreOptions,
    ask: impl AsyncFn(&StoreOptions) -> Result<Option<Entry>, StoreError>,
) {
    within("the first answer over TLS", async { while ask(good).await.is_err() {} }).await;
    let other = StoreOptions { ca_file: Some(certificates.path("other-ca.pem")), ..good.clone() };
    let error = ask(&other).await.expect_err("signed by somebody else");
    assert!(
        matches!(&error, StoreError::Unreachable { cause, .. } if cause.contains("certificate")),
        "{error:?}"
    );
    let anybody = StoreOptions { tls_verification: TlsVerification::Skip, ..other };
    assert_eq!(ask(&anybody).await, Ok(None));
    let nobody = StoreOptions { cert_file: None, key_file: None, ..good.clone() };
    assert!(ask(&nobody).await.is_err(), "the store wants a client certificate");
    let half = StoreOptions { key_file: None, ..good.clone() };
    let error = ask(&half).await.expect_err("half a client certificate");
    assert!(error.to_string().starts_with("cannot create store tls config: --store-cert-file"), "{error}");
    let missing = StoreOptions { ca_file: Some(certificates.path("no.pem")), ..good.clone() };
    let error = ask(&missing).await.expect_err("no such file");
    assert!(error.to_string().starts_with("cannot create store tls config: "), "{error}");
    assert!(matches!(error, StoreError::Configuration { .. }));
}
