//! Whether a secret is left in the memory of this process, as the kernel shows it (proc(5), `/proc/pid/mem`).

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// So many bytes of memory are looked at in one go.
const CHUNK: usize = 1 << 20;
/// Longer than what a search allocates itself, which would overwrite what it is to find.
const LENGTH: usize = 200;
/// The allocator writes its own into the beginning of what was given back, and so may others.
const SEARCHED: Range<usize> = 100..LENGTH;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A secret that stands nowhere in memory before it is [spelled](Traced::spelled): what is kept of it here are its bytes with all bits turned.
pub struct Traced([u8; LENGTH]);

impl Traced {
    /// One that nobody had before.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new() -> io::Result<Traced> {
        let mut bytes = [0; LENGTH];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(Traced(bytes.map(|byte| !ALPHABET[usize::from(byte) % ALPHABET.len()])))
    }

    /// The secret, in one allocation that has no room to spare.
    pub fn spelled(&self) -> String {
        let mut text = String::with_capacity(LENGTH);
        for byte in self.0 {
            text.push(char::from(!byte));
        }
        text
    }

    /// How often its second half stands in what this process may write to.
    ///
    /// # Errors
    /// The memory cannot be read.
    pub fn copies(&self) -> io::Result<usize> {
        let turned = &self.0[SEARCHED];
        let mut chunk = vec![0; CHUNK];
        let memory = File::open("/proc/self/mem")?;
        let mut found = 0;
        for mapping in writable_but(&chunk)? {
            // The last bytes of a chunk are the first of the next one, for what lies across the border.
            let step = CHUNK - (turned.len() - 1);
            for start in mapping.clone().step_by(step) {
                let length = CHUNK.min(usize::try_from(mapping.end - start).unwrap_or(CHUNK));
                // A mapping that is gone by now holds nothing.
                let read = memory.read_at(&mut chunk[..length], start).unwrap_or(0);
                found += count(&chunk[..read], turned);
            }
        }
        chunk.fill(0);
        Ok(found)
    }
}

fn count(memory: &[u8], turned: &[u8]) -> usize {
    let first = !turned[0];
    let candidates = memory.windows(turned.len()).filter(|window| window[0] == first);
    candidates.filter(|window| window.iter().zip(turned).all(|(byte, turned)| *byte == !*turned)).count()
}

/// Where there is memory that may be read and written, without `own`: what is read into it would be found again there.
fn writable_but(own: &[u8]) -> io::Result<Vec<Range<u64>>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let own = own.as_ptr_range();
    let own = own.start.addr() as u64..own.end.addr() as u64;
    let ranges = maps.lines().filter_map(writable).flat_map(|mapping| {
        [mapping.start..mapping.end.min(own.start), mapping.start.max(own.end)..mapping.end]
    });
    Ok(ranges.filter(|range| !range.is_empty()).collect())
}

/// The range of a line of `/proc/self/maps`.
fn writable(line: &str) -> Option<Range<u64>> {
    let (addresses, rest) = line.split_once(' ')?;
    let (start, end) = addresses.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    rest.starts_with("rw").then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever finds no copy has looked in the right places.
    #[test]
    fn every_copy_is_found_and_none_that_is_not_there() {
        let secret = Traced::new().unwrap();
        assert_eq!(secret.copies().unwrap(), 0);
        let first = secret.spelled();
        assert_eq!(secret.copies().unwrap(), 1);
        let around = [vec![0; 3 * CHUNK - 50], vec![0; CHUNK]];
        let far_away = [around[0].as_slice(), first.as_bytes(), &around[1]].concat();
        assert_eq!(secret.copies().unwrap(), 2);
        assert_eq!((first.len(), far_away.len()), (LENGTH, 4 * CHUNK + LENGTH - 50));
    }
}
