//! The files that stop Levee: both planes look at them, by the same rule. A file that only one of them obeyed would leave the other
//! at work.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Which of the files is there: `of_root`, which counts when root owns it, or the dataplane's `own`.
///
/// # Errors
/// When that cannot be known of one, and the other is not there.
pub fn found<'a>(of_root: &'a Path, own: &'a Path) -> io::Result<Option<&'a Path>> {
    let mut trouble = None;
    for (path, must_be_roots) in [(of_root, true), (own, false)] {
        match fs::symlink_metadata(path) {
            // Somebody else's file in a folder that others can write to stops nothing.
            Ok(found) if must_be_roots && found.uid() != 0 => {}
            Ok(_) => return Ok(Some(path)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            // The other file counts all the same.
            Err(error) => trouble = Some(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        }
    }
    trouble.map_or(Ok(None), Err)
}
