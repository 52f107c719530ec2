//! The flag that says where tablespaces of others are put.

use std::path::PathBuf;

use stolon_postgres::TablespaceMapping;
use stolon_runtime::UsageError;

/// Reads `OLD=NEW,OLD=NEW`. No path may hold a comma or an equals sign.
///
/// # Errors
/// An entry is something else, or a path is not absolute.
pub(crate) fn tablespace_mapping(text: &str) -> Result<TablespaceMapping, UsageError> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    let pairs: Result<Vec<(PathBuf, PathBuf)>, UsageError> = entries
        .map(|entry| {
            let mut paths = entry.split('=').map(PathBuf::from);
            match (paths.next(), paths.next(), paths.next()) {
                (Some(old), Some(new), None) if old.is_absolute() && new.is_absolute() => Ok((old, new)),
                _ => Err(UsageError::new(format!(
                    "--tablespace-mapping: {entry:?} is not OLD=NEW with absolute paths"
                ))
                .hint("for example --tablespace-mapping /tablespaces/keeper1=/tablespaces/keeper2")),
            }
        })
        .collect();
    Ok(TablespaceMapping::new(pairs?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_pairs_is_read() {
        let pairs = [("/a", "/b"), ("/c d", "/e")];
        let expected = TablespaceMapping::new(pairs.map(|(old, new)| (old.into(), new.into())).to_vec());
        assert_eq!(tablespace_mapping(" /a=/b , /c d=/e,").unwrap(), expected);
        assert_eq!(tablespace_mapping("").unwrap(), TablespaceMapping::default());
        for text in ["/a", "/a=b", "a=/b", "/a=/b=/c", "=", "/a="] {
            assert!(tablespace_mapping(text).is_err(), "{text}");
        }
    }
}
