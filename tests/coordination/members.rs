//! Members of a real etcd: started on free loopback ports in a temporary directory, and gone with the test. Where there is no etcd on
//! the machine, the tests say so and count as skipped, not as passed.

use std::{
    io::Write,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use tempfile::TempDir;

/// Members of an etcd, by their position.
pub struct Members {
    running: Vec<Option<Child>>,
    commands: Vec<Vec<String>>,
    /// `host:port` of each.
    pub clients: Vec<String>,
    pub directory: TempDir,
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whether these programs are there to test with; says which test is skipped if not, past what the test runner captures.
pub fn has(programs: &[&str], test: &str) -> bool {
    let is_missing = |program: &&&str| {
        let version = if **program == "etcd" { "--version" } else { "version" };
        let run = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
        !run.is_ok_and(|status| status.success())
    };
    let missing = programs.iter().find(is_missing);
    if let Some(program) = missing {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: {program} is not installed (Debian: etcd-server, etcd-client)"
        );
    }
    missing.is_none()
}

pub fn has_etcd(test: &str) -> bool {
    has(&["etcd"], test)
}

/// Ports that are free now, and that the system gives to nobody who asks for any: the members come back to them after they were killed,
/// and whoever dials such a port meanwhile does not reach itself.
fn free_ports(count: usize) -> Vec<u16> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Other processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    let ports = (0..COUNT).map(|_| begin.wrapping_add(GIVEN.fetch_add(1, Relaxed)) % COUNT + FIRST);
    let ports = ports.filter_map(|port| u16::try_from(port).ok());
    let free: Vec<u16> = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect();
    assert_eq!(free.len(), count, "there are free ports");
    free
}

impl Members {
    pub fn start(count: usize) -> Members {
        Members::start_with(count, "http", |_| Vec::new())
    }

    /// Members that clients reach over `scheme`, with further arguments that may name files of the directory.
    pub fn start_with(count: usize, scheme: &str, further: impl Fn(&Path) -> Vec<String>) -> Members {
        let directory = tempfile::tempdir().unwrap();
        let ports = free_ports(count * 2);
        let peer = |i: usize| format!("http://127.0.0.1:{}", ports[count + i]);
        let clients: Vec<String> = (0..count).map(|i| format!("127.0.0.1:{}", ports[i])).collect();
        let initial = (0..count).map(|i| format!("m{i}={}", peer(i))).collect::<Vec<_>>().join(",");
        let commands = (0..count).map(|i| {
            let client = format!("{scheme}://{}", clients[i]);
            let data = directory.path().join(format!("m{i}")).to_string_lossy().into_owned();
            let arguments = [
                ("--name", format!("m{i}")),
                ("--data-dir", data),
                ("--listen-client-urls", client.clone()),
                ("--advertise-client-urls", client),
                ("--listen-peer-urls", peer(i)),
                ("--initial-advertise-peer-urls", peer(i)),
                ("--initial-cluster", initial.clone()),
                ("--initial-cluster-state", "new".to_owned()),
                ("--log-level", "error".to_owned()),
            ];
            let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
            arguments.chain(further(directory.path())).collect()
        });
        let mut members =
            Members { running: (0..count).map(|_| None).collect(), commands: commands.collect(), clients, directory };
        (0..count).for_each(|i| members.run(i));
        members
    }

    /// One member that talks over TLS only, and to those alone whose certificate it knows: `ca.pem`, `client.pem` and `client.key` of its
    /// directory are for them.
    pub fn start_encrypted() -> Members {
        Members::start_with(1, "https", |dir| {
            make_certificates(dir);
            let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
            let files = [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
            let files = files.into_iter().flat_map(|(flag, name)| [flag.to_owned(), file(name)]);
            files.chain(["--client-cert-auth".to_owned()]).collect()
        })
    }

    pub fn run(&mut self, i: usize) {
        let log = std::fs::File::create(self.directory.path().join(format!("m{i}.log"))).unwrap();
        let child = Command::new("etcd")
            .args(&self.commands[i])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.running[i] = Some(child.unwrap());
    }

    pub fn kill(&mut self, i: usize) {
        let mut child = self.running[i].take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Makes an authority, a certificate for 127.0.0.1 and one for a client, as PEM files in `dir`.
fn make_certificates(dir: &Path) {
    let openssl = |arguments: &[&str]| {
        let run = Command::new("openssl").current_dir(dir).args(arguments).output().unwrap();
        assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority = ["req", "-x509", "-subj", "/CN=authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key].concat());
    for (name, usage) in [("server", "serverAuth,clientAuth"), ("client", "clientAuth")] {
        let (key_file, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        openssl(&[&["req", "-subj", &subject, "-keyout", &key_file, "-out", &request][..], &key].concat());
        let extensions = format!("{name}.ext");
        std::fs::write(dir.join(&extensions), format!("subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n"))
            .unwrap();
        let sign =
            ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
        openssl(&[&sign[..], &["-extfile", &extensions, "-out", &certificate]].concat());
    }
}
