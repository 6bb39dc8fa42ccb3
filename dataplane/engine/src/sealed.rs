//! Bytes for a file that survives a crash: magic, version and length before them, a checksum behind. A file that is foreign,
//! torn or of another version is refused whole. Who writes it to disk writes aside and renames.

/// What leads a kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Four letters.
    pub magic: [u8; 4],
    /// Version of the payload's layout.
    pub version: u16,
}

/// Why bytes are not a file of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Something else.
    #[error("this is not a file of this kind")]
    Foreign,
    /// Another version of Levee wrote it.
    #[error("its format {found} is not known to this version of Levee, which reads {known}")]
    Version {
        /// What it says.
        found: u16,
        /// What is read.
        known: u16,
    },
    /// It was cut or changed.
    #[error("it is damaged: its length or checksum is wrong")]
    Damaged,
}

/// Magic, version and length.
const HEAD: usize = 4 + 2 + 8;

/// The file of a payload.
pub fn seal(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEAD + payload.len() + 4);
    file.extend_from_slice(&kind.magic);
    file.extend_from_slice(&kind.version.to_le_bytes());
    file.extend_from_slice(&u64::try_from(payload.len()).unwrap_or(u64::MAX).to_le_bytes());
    file.extend_from_slice(payload);
    let checksum = crc32fast::hash(&file);
    file.extend_from_slice(&checksum.to_le_bytes());
    file
}

/// The payload of a file.
///
/// # Errors
/// When it is not a whole file of the kind.
pub fn open(kind: Kind, file: &[u8]) -> Result<&[u8], SealError> {
    let Some((head, rest)) = file.split_first_chunk::<HEAD>() else {
        return Err(if file.starts_with(&kind.magic) { SealError::Damaged } else { SealError::Foreign });
    };
    let [m0, m1, m2, m3, v0, v1, length @ ..] = *head;
    if [m0, m1, m2, m3] != kind.magic {
        return Err(SealError::Foreign);
    }
    let found = u16::from_le_bytes([v0, v1]);
    if found != kind.version {
        return Err(SealError::Version { found, known: kind.version });
    }
    let (payload, stored) = rest.split_last_chunk::<4>().ok_or(SealError::Damaged)?;
    let covered = file.len() - stored.len();
    let whole = u64::try_from(payload.len()) == Ok(u64::from_le_bytes(length));
    if whole && file.get(..covered).map(crc32fast::hash) == Some(u32::from_le_bytes(*stored)) {
        Ok(payload)
    } else {
        Err(SealError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { magic: *b"TEST", version: 3 };

    #[test]
    fn what_was_sealed_opens() {
        assert_eq!(open(KIND, &seal(KIND, b"payload")), Ok(&b"payload"[..]));
        assert_eq!(open(KIND, &seal(KIND, b"")), Ok(&b""[..]));
    }

    #[test]
    fn a_file_torn_or_changed_at_any_byte_is_refused() {
        let whole = seal(KIND, b"some payload");
        for at in 0..whole.len() {
            assert!(open(KIND, &whole[..at]).is_err(), "cut at {at}");
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(open(KIND, &changed).is_err(), "changed at {at}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert_eq!(open(KIND, &longer), Err(SealError::Damaged));
    }

    #[test]
    fn other_kinds_and_versions_are_told_apart() {
        assert_eq!(open(KIND, b"something else entirely"), Err(SealError::Foreign));
        let newer = seal(Kind { version: 4, ..KIND }, b"payload");
        assert_eq!(open(KIND, &newer), Err(SealError::Version { found: 4, known: 3 }));
    }
}
