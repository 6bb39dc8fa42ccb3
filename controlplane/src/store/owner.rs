//! Files that root makes in the state folder belong to whom the folder belongs: what is done by hand is done as root, and the
//! service is another user that has to open them afterwards.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::libc::O_NOFOLLOW;
use nix::unistd::geteuid;

/// Opens a file for reading and writing, and makes it if it is not there. Follows no link: the folder may be that of
/// somebody who is less than who asks.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).write(true).custom_flags(O_NOFOLLOW).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(path),
        opened => opened,
    }
}

/// Makes a file that is not there yet.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    if geteuid().is_root() {
        let folder = path.parent().unwrap_or(Path::new("/")).metadata()?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (folder.uid(), folder.gid()) {
            fchown(&file, Some(folder.uid()), Some(folder.gid()))?;
        }
    }
    Ok(file)
}
