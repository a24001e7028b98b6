//! Whom a look at the processes of this host may have missed.

use std::fmt;

/// Why somebody may hold a file whom a walk has not seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blind {
    /// The procfs shows one PID namespace only, as in a container; Chroma may run in another one.
    Namespace,
    /// The procfs hides the processes of other users (`hidepid`).
    Hidden,
    /// This process may be a Chroma, and its open files could not be looked at.
    Suspect(Suspect),
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace => f.write_str("/proc shows the processes of this container alone"),
            Self::Hidden => f.write_str("/proc hides the processes of other users (hidepid)"),
            Self::Suspect(Suspect { pid, comm, .. }) => {
                write!(f, "the open files of process {pid} ({comm}) may not be looked at")
            }
        }
    }
}

impl Blind {
    /// What an operator can do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Namespace => {
                "share the processes of the host with this program: docker run --pid host, hostPID in Kubernetes, or mount the host's /proc and name it with --path.procfs"
            }
            Self::Hidden => {
                "run the exporter as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or in the group that the mount option gid= of /proc names; under systemd without ProtectProc="
            }
            Self::Suspect(_) => {
                "run the exporter as root, as the user of that process, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            }
        }
    }
}

/// A process that could not be looked into and may be a Chroma.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Who.
    pub pid: u32,
    /// Its short name.
    pub comm: String,
    /// Whether its command line is that of a Chroma server.
    pub server: bool,
}
