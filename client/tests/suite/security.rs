//! Encrypted connections and users.

use std::sync::Arc;

use baton_client::{Client, Credentials, Error, Identity, Options, Tls, Watch, authpb};
use baton_test_cluster::process::Program;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::proxy::{Mode, pass};
use crate::{etcd, of_both, single, within};

of_both!(
    an_encrypted_server_is_trusted_by_its_authority,
    a_client_shows_its_certificate,
    a_server_on_a_unix_socket_is_reached,
    a_user_of_a_server_without_users_carries_on,
);

/// An authority, and what it certified.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("authority");
        Self { issuer }
    }

    fn identity(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("key");
        let params = CertificateParams::new(names).expect("names");
        let certificate = params.signed_by(&key, &self.issuer).expect("certificate");
        Identity {
            certificates: certificate.pem().into(),
            key: key.serialize_pem().into(),
        }
    }

    fn pem(&self) -> Vec<u8> {
        self.issuer.pem().into()
    }
}

fn client_of(endpoint: &str, tls: Tls) -> Client {
    let options = Options {
        tls,
        request_timeout: std::time::Duration::from_secs(5),
        ..Options::default()
    };
    Client::with_options([endpoint], options).expect("client")
}

/// Encrypts what is said to a server. With `clients`, only to those certified by that authority.
async fn encrypted(
    server: &str,
    authority: &Authority,
    names: &[&str],
    ask_client: bool,
) -> String {
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let identity = authority.identity(names);
    let chain = CertificateDer::from_pem_slice(&identity.certificates).expect("certificate");
    let key = PrivateKeyDer::from_pem_slice(&identity.key).expect("key");
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = if ask_client {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(&authority.pem()).expect("authority");
        roots.add(ca).expect("authority");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.expect("verifier"))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![chain], key).expect("config");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let port = listener.local_addr().expect("address").port();
    let server = server.trim_start_matches("http://").to_owned();
    let (keep, modes) = watch::channel(Mode::Pass);
    tokio::spawn(async move {
        let _keep = keep;
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server, modes) = (acceptor.clone(), server.clone(), modes.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    pass(stream, server, modes, 0).await;
                }
            });
        }
    });
    format!("https://127.0.0.1:{port}")
}

async fn an_encrypted_server_is_trusted_by_its_authority(program: Program) {
    let (cluster, _) = single(&program).await;
    let authority = Authority::new();
    let url = &cluster.urls()[0];
    let by_address = encrypted(url, &authority, &["127.0.0.1"], false).await;
    let by_name = encrypted(url, &authority, &["db.example"], false).await;
    let ca = Tls {
        ca: authority.pem(),
        ..Tls::default()
    };
    client_of(&by_address, ca.clone())
        .put(("k", "v"))
        .await
        .expect("put");

    let untrusting = Tls {
        ca: Authority::new().pem(),
        ..Tls::default()
    };
    for (endpoint, tls) in [(&by_address, untrusting), (&by_name, ca.clone())] {
        let error = client_of(endpoint, tls)
            .get("k")
            .await
            .expect_err("not trusted");
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    let named = Tls {
        server_name: Some("db.example".to_owned()),
        ..ca
    };
    client_of(&by_name, named).get("k").await.expect("get");
    let anyone = Tls {
        insecure_skip_verify: true,
        ..Tls::default()
    };
    client_of(&by_name, anyone).get("k").await.expect("get");
}

async fn a_client_shows_its_certificate(program: Program) {
    let (cluster, _) = single(&program).await;
    let authority = Authority::new();
    let url = &cluster.urls()[0];
    let endpoint = encrypted(url, &authority, &["127.0.0.1"], true).await;
    let nobody = Tls {
        ca: authority.pem(),
        ..Tls::default()
    };
    let somebody = Tls {
        identity: Some(authority.identity(&["client"])),
        ..nobody.clone()
    };
    client_of(&endpoint, somebody)
        .put(("k", "v"))
        .await
        .expect("put");
    let put = client_of(&endpoint, nobody).put(("k", "v")).await;
    put.expect_err("the server wants a certificate");
}

#[test]
fn certificates_that_are_none_are_refused_at_once() {
    let garbage = || b"-----BEGIN NONSENSE-----".to_vec();
    let identity = Identity {
        certificates: garbage(),
        key: garbage(),
    };
    let wrong = [
        Tls {
            ca: garbage(),
            ..Tls::default()
        },
        Tls {
            identity: Some(identity),
            ..Tls::default()
        },
    ];
    for tls in wrong {
        let options = Options {
            tls,
            ..Options::default()
        };
        let error = Client::with_options(["https://db"], options).expect_err("no certificate");
        assert!(matches!(error, Error::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains("PEM"), "{error}");
    }
}

async fn a_server_on_a_unix_socket_is_reached(program: Program) {
    let (cluster, _) = single(&program).await;
    let path = cluster.directory().join("client.sock");
    let listener = UnixListener::bind(&path).expect("listen");
    let server = cluster.members[0].address();
    let (_keep, modes) = watch::channel(Mode::Pass);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(pass(stream, server.clone(), modes.clone(), 0));
        }
    });
    let client = Client::new([format!("unix:{}", path.display())]).expect("client");
    client.put(("k", "v")).await.expect("put");
}

fn user(name: &str, password: &str) -> Options {
    Options {
        credentials: Some(Credentials {
            user: name.to_owned(),
            password: password.to_owned(),
        }),
        ..Options::default()
    }
}

async fn a_user_of_a_server_without_users_carries_on(program: Program) {
    let (cluster, _) = single(&program).await;
    let client = Client::with_options(cluster.urls(), user("root", "secret")).expect("client");
    client.put(("k", "v")).await.expect("put");
    client.watch(Watch::key("k")).await.expect("watch");
}

/// Users are a part of Baton that is to come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_shows_who_it_is_and_gets_a_new_token_when_the_server_forgot_the_old_one() {
    let Some(program) = etcd() else { return };
    within(users(program)).await;
}

async fn users(program: Program) {
    let (mut cluster, nobody) = single(&program).await;
    nobody
        .user_add("root", Some("secret".to_owned()))
        .await
        .expect("user");
    nobody.user_grant_role("root", "root").await.expect("role");
    nobody.role_add("reader").await.expect("role");
    let permission = authpb::Permission {
        perm_type: authpb::permission::Type::Read.into(),
        key: "k".into(),
        range_end: "".into(),
    };
    nobody
        .role_grant_permission("reader", permission)
        .await
        .expect("permission");
    nobody
        .user_add("ann", Some("pass".to_owned()))
        .await
        .expect("user");
    nobody.user_grant_role("ann", "reader").await.expect("role");
    let began_before =
        Client::with_options(cluster.urls(), user("root", "secret")).expect("client");
    began_before.put(("k", "v")).await.expect("put");
    nobody.auth_enable().await.expect("enable");

    let error = nobody.get("k").await.expect_err("nobody may read");
    assert!(
        error.refusal().expect("a refusal").is_unauthenticated(),
        "{error:?}"
    );
    let wrong = Client::with_options(cluster.urls(), user("root", "wrong")).expect("client");
    let error = wrong.get("k").await.expect_err("a wrong password");
    assert!(
        error.refusal().expect("a refusal").is_unauthenticated(),
        "{error:?}"
    );
    began_before
        .put(("k", "v"))
        .await
        .expect("it learns that it needs a token");

    let ann = Client::with_options(cluster.urls(), user("ann", "pass")).expect("client");
    assert_eq!(ann.get("k").await.expect("get").count, 1);
    let error = ann.put(("k", "w")).await.expect_err("ann may not write");
    assert!(
        error.refusal().expect("a refusal").is_permission_denied(),
        "{error:?}"
    );
    let error = ann
        .watch(Watch::key("other"))
        .await
        .expect_err("ann may not watch");
    assert!(error.to_string().contains("permission denied"), "{error}");
    let mut watcher = ann.watch(Watch::key("k")).await.expect("watch");

    let lease = began_before
        .grant(std::time::Duration::from_secs(60), 0)
        .await;
    let lease = lease.expect("grant").id;
    cluster.members[0].kill();
    cluster.members[0].start().expect("start");
    // Tokens of this kind are kept in memory.
    assert!(began_before.renew(lease).await.expect("renewal").is_some());
    let put = began_before.put(("k", "x")).await;
    let revision = put.expect("put").header.expect("header").revision;
    assert_eq!(watcher.next().await.expect("event").revision, revision);
    assert_eq!(ann.get("k").await.expect("get").kvs[0].value, "x");
}
