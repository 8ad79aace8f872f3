//! How much memory the host has for training.

use std::fs;
use std::path::Path;

/// Bytes of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub total: u64,
    /// What training may take now.
    pub available: u64,
}

impl Capacity {
    /// One of so many parts of it.
    pub fn share(self, parts: u64) -> Self {
        Self {
            total: self.total / parts,
            available: self.available / parts,
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            total: self.total.min(other.total),
            available: self.available.min(other.available),
        }
    }
}

/// What the system can give without swapping, or what is left to the process's control groups if that is less. `None` where
/// the system is not Linux.
pub fn host() -> Option<Capacity> {
    let system = of_system(&read(Path::new("/proc/meminfo"))?)?;
    let membership = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let groups = of_groups(Path::new("/sys/fs/cgroup"), &membership);
    Some(groups.into_iter().fold(system, Capacity::least))
}

fn of_system(meminfo: &str) -> Option<Capacity> {
    let bytes = |name: &str| Some(field(meminfo, name)? * 1024);
    Some(Capacity {
        total: bytes("MemTotal:")?,
        available: bytes("MemAvailable:")?,
    })
}

/// The limits of the groups that the process is in, and of those around them, as version 2 and version 1 have them below
/// `root`; `membership` is `/proc/self/cgroup`. In a container the paths may be those of the host: then only the group at
/// the root is found, which is its own.
fn of_groups(root: &Path, membership: &str) -> Vec<Capacity> {
    let mut found = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let version = if controllers.is_empty() {
            &VERSION_2
        } else if controllers.split(',').any(|name| name == "memory") {
            &VERSION_1
        } else {
            continue;
        };
        let root = root.join(version.folder);
        let path = Path::new(path.trim_start_matches('/'));
        found.extend(
            path.ancestors()
                .filter_map(|at| version.group(&root.join(at))),
        );
    }
    found
}

/// Where a version of control groups writes what.
struct Version {
    folder: &'static str,
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: what the files that were read take, and would be given back.
    cached: &'static str,
}

const VERSION_1: Version = Version {
    folder: "memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: "total_inactive_file",
};

const VERSION_2: Version = Version {
    folder: "",
    limit: "memory.max",
    used: "memory.current",
    cached: "inactive_file",
};

impl Version {
    /// The limit of a group, if it has one.
    fn group(&self, at: &Path) -> Option<Capacity> {
        let number = |name: &str| read(&at.join(name))?.trim().parse::<u64>().ok();
        let (total, used) = (number(self.limit)?, number(self.used)?);
        let statistics = read(&at.join("memory.stat")).unwrap_or_default();
        let cached = field(&statistics, self.cached).unwrap_or(0);
        Some(Capacity {
            total,
            available: total.saturating_sub(used.saturating_sub(cached)),
        })
    }
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_can_give_is_read_in_bytes() {
        let meminfo = "MemTotal:       24689764 kB\nMemAvailable:   23068672 kB\n";
        let capacity = of_system(meminfo).unwrap();
        assert_eq!(capacity.available, 22 << 30);
        assert_eq!(of_system("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn the_narrowest_group_counts_and_cached_files_are_free() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, limit: &str, used: &str, cached: &str| {
            let at = root.path().join(path);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("memory.max"), limit).unwrap();
            fs::write(at.join("memory.current"), used).unwrap();
            let statistics = format!("anon 5\ninactive_file {cached}\n");
            fs::write(at.join("memory.stat"), statistics).unwrap();
        };
        group("", "max\n", "900\n", "0");
        group("job", "1000\n", "700\n", "600");
        group("job/step", "max\n", "650\n", "600");
        let found = of_groups(root.path(), "0::/job/step\n");
        let (total, available) = (1000, 900);
        assert_eq!(found, [Capacity { total, available }]);
        assert_eq!(of_groups(root.path(), "0::/elsewhere\n"), []);
        assert_eq!(of_groups(root.path(), "1:cpu:/job\n"), []);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_host_has_memory() {
        let capacity = host().unwrap();
        assert!(capacity.available > 0 && capacity.available <= capacity.total);
    }
}
