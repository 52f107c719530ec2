//! Two maps side by side.

use std::cmp::Ordering;

/// Every entry of `left` with the value that `right` has under the same key. Both must be in the order of their keys, as the iterators
/// of maps are: so a join costs one pass, where a look-up for each key would cost a search.
pub(super) fn joined<K: PartialOrd<Q>, Q, L, R>(
    left: impl IntoIterator<Item = (K, L)>,
    right: impl IntoIterator<Item = (Q, R)>,
) -> impl Iterator<Item = (K, L, Option<R>)> {
    let mut right = right.into_iter().peekable();
    left.into_iter().map(move |(key, value)| {
        let other = loop {
            match right.peek().and_then(|(other, _)| key.partial_cmp(other)) {
                Some(Ordering::Greater) => drop(right.next()),
                Some(Ordering::Equal) => break right.next().map(|(_, other)| other),
                Some(Ordering::Less) | None => break None,
            }
        };
        (key, value, other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_of_the_left_comes_once() {
        let left = [(1, 'a'), (3, 'b'), (4, 'c'), (9, 'd')];
        let right = [(0, 'x'), (3, 'y'), (5, 'z'), (9, 'w')];
        let found: Vec<_> = joined(left, right).collect();
        assert_eq!(found, [(1, 'a', None), (3, 'b', Some('y')), (4, 'c', None), (9, 'd', Some('w'))]);
    }
}
