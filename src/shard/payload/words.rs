//! A roaring bitmap as plain words, one bit an ordinal. Its iterator takes a nanosecond a member, which for a filter that half of a
//! million points pass is longer than the search; the bitmap's own bytes, in the published roaring format, are mostly those words.
//! Called by `allowed`.

use roaring::RoaringBitmap;

/// Begins a bitmap without runs; the number of containers follows.
const COOKIE_NO_RUNS: u32 = 12_346;
/// Containers with more members are bits, others are sorted lists.
const LIST_MAX: usize = 4_096;
/// Ordinals of a container.
const CONTAINER: usize = 1 << 16;

/// The members below `64 · len` of the answer, which has a word for each 64 ordinals below `ordinals_end`.
pub fn words_of(bitmap: &RoaringBitmap, ordinals_end: u32) -> Vec<u64> {
    let mut words = vec![0; (ordinals_end as usize).div_ceil(64)];
    if (bitmap.len() as usize) < words.len() / 8 || copy_containers(bitmap, &mut words).is_none() {
        for ordinal in bitmap {
            set(&mut words, ordinal as usize);
        }
    }
    words
}

fn set(words: &mut [u64], ordinal: usize) {
    if let Some(word) = words.get_mut(ordinal / 64) {
        *word |= 1 << (ordinal % 64);
    }
}

/// Copies container by container; `None` if the bytes are of a form this does not read (there are runs).
fn copy_containers(bitmap: &RoaringBitmap, words: &mut [u64]) -> Option<()> {
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).ok()?;
    let mut rest = bytes.as_slice();
    if take_u32(&mut rest)? != COOKIE_NO_RUNS {
        return None;
    }
    let containers = take_u32(&mut rest)? as usize;
    let (headers, rest) = rest.split_at_checked(containers * 4)?;
    let (_offsets, mut content) = rest.split_at_checked(containers * 4)?;
    for header in headers.chunks_exact(4) {
        let first = usize::from(u16::from_le_bytes([header[0], header[1]])) * CONTAINER;
        let len = usize::from(u16::from_le_bytes([header[2], header[3]])) + 1;
        let bytes = if len <= LIST_MAX { 2 * len } else { CONTAINER / 8 };
        let (own, after) = content.split_at_checked(bytes)?;
        content = after;
        if len <= LIST_MAX {
            own.chunks_exact(2).for_each(|low| set(words, first + usize::from(u16::from_le_bytes([low[0], low[1]]))));
        } else {
            let target = words.get_mut(first / 64..).unwrap_or_default();
            for (word, bits) in target.iter_mut().zip(own.as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bits);
            }
        }
    }
    Some(())
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_members() {
        let mut random = 7_u32;
        let mut next = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random >> 8
        };
        for one_in in [1, 2, 10, 30, 1_000, 60_000] {
            let mut bitmap: RoaringBitmap = (0..300_000).filter(|_| next() % one_in == 0).collect();
            // One container with a list, one full, one with nothing, one that may become a run.
            bitmap.remove_range(65_536..131_000);
            bitmap.insert_range(131_072..196_608);
            for runs in [false, true] {
                if runs {
                    bitmap.optimize();
                }
                for end in [0_u32, 1, 70_000, 131_072, 299_999, 400_000] {
                    let words = words_of(&bitmap, end);
                    assert_eq!(words.len(), (end as usize).div_ceil(64));
                    for ordinal in 0..words.len() as u32 * 64 {
                        let bit = words[ordinal as usize / 64] >> (ordinal % 64) & 1 == 1;
                        assert_eq!(bit, bitmap.contains(ordinal), "{ordinal} of one in {one_in}, runs {runs}");
                    }
                }
            }
        }
    }
}
