//! One process of a development cluster: started in a process group of its own (a Ctrl-C at the terminal is this program's to
//! handle), tied to the life of this program, signalled, and waited for without blocking.
//!
//! Promise: whatever ends this program, none of its processes outlives it: a clean end stops them, dropping a [`Process`]
//! kills it, and where this program is itself killed the system does it (Linux).

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

/// See the module.
#[derive(Debug)]
pub struct Process {
    child: Child,
    ended: Option<ExitStatus>,
    is_paused: bool,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    Runs,
    Paused,
    Ended(ExitStatus),
}

impl Process {
    /// Starts `program` with its output appended to `log`, and `environment` beside what this program has.
    ///
    /// To be called on the program's main thread: the system ties the new process to the life of the thread that starts it.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(
        program: &Path,
        arguments: &[OsString],
        environment: &[(&str, &str)],
        log: &Path,
    ) -> io::Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        command.envs(environment.iter().copied());
        tie(&mut command);
        Ok(Process { child: command.spawn()?, ended: None, is_paused: false })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs.
    pub fn alive(&mut self) -> Alive {
        if self.ended.is_none() {
            // A process that cannot be asked about is one that is not there.
            self.ended = self.child.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0)));
        }
        match self.ended {
            Some(status) => Alive::Ended(status),
            None if self.is_paused => Alive::Paused,
            None => Alive::Runs,
        }
    }

    /// SIGKILL, and waits for its end, which is at once.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            // Fails only where it has ended already, which the wait tells.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.is_paused = self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(libc::SIGCONT);
        self.is_paused = false;
    }

    /// Asks it to stop in good order.
    pub fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
        if self.is_paused {
            self.resume();
        }
    }

    /// Whether the signal was sent.
    fn signal(&mut self, signal: i32) -> bool {
        if matches!(self.alive(), Alive::Ended(_)) {
            return false;
        }
        let Ok(id) = i32::try_from(self.child.id()) else { return false };
        // SAFETY: kill only sends a signal; the child was not waited for, so the id is still its own.
        unsafe { libc::kill(id, signal) == 0 }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Lets the system kill the process when this one dies, however it dies.
#[cfg(target_os = "linux")]
fn tie(command: &mut Command) {
    let parent = std::process::id();
    let tie = move || {
        // SAFETY: prctl with this option takes a number and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: getppid has no preconditions.
        let is_orphan = u32::try_from(unsafe { libc::getppid() }) != Ok(parent);
        // The parent died before the line above: nobody will tell.
        if is_orphan { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: between fork and exec it calls prctl and getppid only, which are safe there, and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

#[cfg(not(target_os = "linux"))]
fn tie(_command: &mut Command) {}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::disallowed_methods)] // Real processes under a real clock.
mod tests {
    use super::*;
    use std::time::Duration;

    fn sleeper(directory: &Path) -> Process {
        let arguments = ["60".into()];
        Process::start(Path::new("/bin/sleep"), &arguments, &[], &directory.join("log")).expect("sleep is there")
    }

    fn state_of(id: u32) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    fn wait_for(what: impl Fn() -> bool) -> bool {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            what()
        })
    }

    #[test]
    fn a_process_is_paused_resumed_terminated_and_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut process = sleeper(directory.path());
        let id = process.id();
        assert_eq!(process.alive(), Alive::Runs);
        process.pause();
        assert!(wait_for(|| state_of(id) == Some('T')) && process.alive() == Alive::Paused);
        process.resume();
        assert!(wait_for(|| state_of(id) == Some('S')) && process.alive() == Alive::Runs);
        process.pause();
        process.terminate();
        let mut ended = || matches!(process.alive(), Alive::Ended(status) if status.signal() == Some(libc::SIGTERM));
        assert!(
            (0..500).any(|_| ended() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }),
            "a paused one is resumed to end"
        );
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let process = sleeper(directory.path());
        let id = process.id();
        assert!(state_of(id).is_some());
        drop(process);
        assert_eq!(state_of(id), None);
    }
}
