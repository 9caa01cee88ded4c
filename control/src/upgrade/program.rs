//! Which program is to take over, and whether it may.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The path of this program, also if another file is there by now.
pub(crate) fn own_program() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_default();
    let text = path.to_string_lossy();
    text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from)
}

/// The program at a path. It runs with the gateway's rights, so nobody but root and the gateway's own user may have a say in what it
/// is, nor in the folders above it.
///
/// # Errors
/// Why it is none that may be started, in words.
pub(super) fn checked(path: &Path) -> Result<PathBuf, String> {
    let cannot = |error: std::io::Error| format!("{}: {error}", path.display());
    if !path.is_absolute() {
        return Err(format!("{}: write the whole path, from / on", path.display()));
    }
    let program = fs::canonicalize(path).map_err(cannot)?;
    let own = nix::unistd::geteuid().as_raw();
    for (depth, part) in program.ancestors().enumerate() {
        let facts = fs::metadata(part).map_err(cannot)?;
        let (mode, owner) = (facts.permissions().mode(), facts.uid());
        if depth == 0 && (!facts.is_file() || mode & 0o111 == 0) {
            return Err(format!("{}: it is no program", part.display()));
        }
        // In a folder with the sticky bit, such as /tmp, nobody replaces what is another's.
        let is_open = mode & 0o022 != 0 && !(facts.is_dir() && mode & 0o1000 != 0);
        if is_open || owner != 0 && owner != own {
            return Err(format!(
                "{}: others than root and user {own}, who runs the gateway, can change it; `chown root` and `chmod go-w` it, \
                 or put the program elsewhere",
                part.display()
            ));
        }
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_others_cannot_change_is_started() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("sluice");
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(checked(&program).unwrap_err().contains("No such file"));
        fs::write(&program, "#!/bin/sh\n").unwrap();
        set(&program, 0o644);
        assert!(checked(&program).unwrap_err().ends_with("it is no program"));
        set(&program, 0o755);
        assert_eq!(checked(&program), fs::canonicalize(&program).map_err(|error| error.to_string()));
        set(&program, 0o775);
        assert!(checked(&program).unwrap_err().contains("can change it"));
        set(&program, 0o755);
        set(folder.path(), 0o777);
        assert!(checked(&program).unwrap_err().contains("can change it"));
        set(folder.path(), 0o700);
        assert!(checked(Path::new("sluice")).unwrap_err().contains("whole path"));
        assert!(checked(folder.path()).unwrap_err().contains("no program"));
    }
}
