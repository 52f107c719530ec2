//! Certificates for tests.

use std::path::{Path, PathBuf};

use stolon_store::StoreOptions;
use stolon_testkit::etcd::Access;

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
