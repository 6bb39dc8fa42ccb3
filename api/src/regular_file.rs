//! Files that somebody names: nothing that never ends, and nothing that waits for somebody to write.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// Makes sure that it is a file.
///
/// # Errors
/// When it is something else, or not there.
pub fn check(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?.file_type();
    let what = match found {
        found if found.is_file() => return Ok(()),
        found if found.is_dir() => "it is a folder, not a file",
        found if found.is_fifo() => "it is a pipe: write what comes out of it to a file first",
        found if found.is_socket() => "it is a socket, not a file",
        _ => "it is a device, not a file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Reads a file of at most so many bytes.
///
/// # Errors
/// When it is none, larger, or cannot be read.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    check(path)?;
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read_and_only_so_much() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert!(read(&file, 4).unwrap_err().to_string().contains("larger than 4 bytes"));
        assert!(read(folder.path(), 5).unwrap_err().to_string().contains("a folder"));
        assert!(read(Path::new("/dev/zero"), 5).unwrap_err().to_string().contains("a device"));
        let socket = folder.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(read(&socket, 5).unwrap_err().to_string().contains("a socket"));
        assert_eq!(read(&folder.path().join("none"), 5).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
