//! The headers of Parquet files, in Thrift's compact form, read as the library will read them and held against themselves.

/// Why a page's header is not believed.
#[derive(Debug, PartialEq)]
pub(super) enum Doubt {
    /// It goes on behind the bytes at hand.
    Short,
    Wrong,
}

pub(super) type Step<T> = std::result::Result<T, Doubt>;

// Thrift's compact form: kinds of fields, and how deep they may lie in each other. The library reads a field that it knows
// whatever the kind: one of another kind would make it lose its place, and read sizes where there are none.
const END: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const NUMBER: u8 = 5;
const TEXT: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;
const DEEPEST: usize = 16;

fn byte(head: &mut &[u8]) -> Step<u8> {
    let (byte, rest) = head.split_first().ok_or(Doubt::Short)?;
    *head = rest;
    Ok(*byte)
}

/// A whole number, least first by sevens of bits.
fn varint(head: &mut &[u8]) -> Step<u64> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let byte = byte(head)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Doubt::Wrong)?;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
}

/// The same with a sign, of 32 bits: of longer ones the library would believe the last 32.
fn number(head: &mut &[u8]) -> Step<i64> {
    let value = varint(head)?;
    let number = (value >> 1) as i64 ^ -((value & 1) as i64);
    i32::try_from(number).map(i64::from).map_err(|_| Doubt::Wrong)
}

/// What is done with a field: the bytes from its value on, its number, its kind.
type Each<'a> = &'a mut dyn FnMut(&mut &[u8], i64, u8) -> Step<()>;

/// Hands each field of a struct to `each`, with its number and kind. Every writer puts them in order; the library would
/// believe the last of several.
fn fields(head: &mut &[u8], each: Each) -> Step<()> {
    let mut last = 0;
    loop {
        let first = byte(head)?;
        let (step, kind) = (first >> 4, first & 15);
        if kind == END {
            return Ok(());
        }
        let id = if step == 0 { number(head)? } else { last + i64::from(step) };
        // 16 bits in the library, which would begin again.
        if id <= last || id > i16::MAX.into() {
            return Err(Doubt::Wrong);
        }
        each(head, id, kind)?;
        last = id;
    }
}

/// The items of a list and their kind.
fn list(head: &mut &[u8]) -> Step<(u64, u8)> {
    let first = byte(head)?;
    let items = if first >> 4 == 15 { varint(head)? } else { u64::from(first >> 4) };
    // Truth takes a byte there, or none, as the library has it; nothing here has a list of it.
    if [TRUE, FALSE].contains(&(first & 15)) { Err(Doubt::Wrong) } else { Ok((items, first & 15)) }
}

/// The columns of one element of a schema.
fn element(head: &mut &[u8]) -> Step<u64> {
    let mut columns = 0;
    fields(head, &mut |head, id, kind| match (id, kind) {
        (5, NUMBER) => {
            columns = u64::try_from(number(head)?).map_err(|_| Doubt::Wrong)?;
            Ok(())
        }
        (1..=3 | 6..=9, NUMBER) => number(head).map(drop),
        (4, TEXT) => skip(head, TEXT, 0),
        (10, STRUCT) => logical(head),
        (..=10, _) => Err(Doubt::Wrong),
        _ => skip(head, kind, 0),
    })?;
    Ok(columns)
}

/// Passes over a logical type, whose fields are of the kinds that the format says.
fn logical(head: &mut &[u8]) -> Step<()> {
    fields(head, &mut |head, which, kind| {
        if kind != STRUCT {
            return Err(Doubt::Wrong);
        }
        fields(head, &mut |head, id, kind| {
            let right = match (which, id) {
                // Decimal: scale and precision. Time: whether UTC, and the unit. Integer: bits, and whether signed.
                (5, 1 | 2) => kind == NUMBER,
                (7 | 8, 1) | (10, 2) => [TRUE, FALSE].contains(&kind),
                (7 | 8, 2) => kind == STRUCT,
                (10, 1) | (16, 1) => kind == BYTE,
                // Places: coordinates, and the way between them.
                (17 | 18, 1) => kind == TEXT,
                (18, 2) => kind == NUMBER,
                _ => true,
            };
            if right { skip(head, kind, 4) } else { Err(Doubt::Wrong) }
        })
    })
}

/// Holds a footer against itself: the library makes room for as many columns as a group says it has.
pub(super) fn schema(mut footer: &[u8]) -> Step<()> {
    fields(&mut footer, &mut |head, id, kind| match (id, kind) {
        (2, LIST) => {
            let (items, kind) = list(head)?;
            let mut columns = 0u64;
            for _ in 0..items {
                if kind != STRUCT {
                    return Err(Doubt::Wrong);
                }
                columns = columns.saturating_add(element(head)?);
            }
            if columns > items { Err(Doubt::Wrong) } else { Ok(()) }
        }
        // Version; rows; groups of them, more about the file and its columns; who wrote it; how it is encrypted.
        (1, NUMBER) | (3, 6) | (4 | 5 | 7, LIST) | (6 | 9, TEXT) | (8, STRUCT) => skip(head, kind, 0),
        (..=9, _) => Err(Doubt::Wrong),
        _ => skip(head, kind, 0),
    })
}

/// Passes over a value; each item takes a byte at least, so that it ends.
fn skip(head: &mut &[u8], kind: u8, depth: usize) -> Step<()> {
    let bytes = match kind {
        // Which it is, the kind tells.
        TRUE | FALSE => 0,
        BYTE => 1,
        4..=6 => return varint(head).map(|_| ()),
        7 => 8,
        TEXT => varint(head)?,
        LIST | 10 if depth < DEEPEST => {
            let (items, kind) = list(head)?;
            return (0..items).try_for_each(|_| skip(head, kind, depth + 1));
        }
        STRUCT if depth < DEEPEST => return fields(head, &mut |head, _, kind| skip(head, kind, depth + 1)),
        // No header of a page has a map.
        _ => return Err(Doubt::Wrong),
    };
    let rest = usize::try_from(bytes).ok().and_then(|n| head.get(n..)).ok_or(Doubt::Short)?;
    *head = rest;
    Ok(())
}

/// Of a page's own struct, whose first `numbers` fields are numbers: that of its values and, as field `place`, their encoding.
fn values_and_encoding(head: &mut &[u8], numbers: i64, place: i64) -> Step<[i64; 2]> {
    let (mut values, mut encoding) = (0, 0);
    fields(head, &mut |head, id, kind| {
        match (id, kind) {
            (1, NUMBER) => values = number(head)?,
            (_, NUMBER) if id == place => encoding = number(head)?,
            (_, NUMBER) if id <= numbers => drop(number(head)?),
            _ if id <= numbers => return Err(Doubt::Wrong),
            // Whether sorted, whether compressed; statistics.
            (_, TRUE | FALSE) if id == numbers + 1 => {}
            (_, STRUCT) => skip(head, kind, 1)?,
            _ if id <= 8 => return Err(Doubt::Wrong),
            _ => skip(head, kind, 1)?,
        }
        Ok(())
    })?;
    Ok([values, encoding])
}

/// Reads a page's header, and holds its sizes against each other.
pub(super) fn check(mut head: &[u8], expansion: u64) -> Step<()> {
    // Kind of page, bytes, bytes in the file, checksum.
    let (mut sizes, mut page) = ([-1; 4], None);
    fields(&mut head, &mut |head, id, kind| {
        match (id, kind) {
            (1..=4, NUMBER) => sizes[id as usize - 1] = number(head)?,
            // Data, dictionary, data of the second version.
            (5, STRUCT) => page = Some((id, values_and_encoding(head, 4, 2)?)),
            (7, STRUCT) => page = Some((id, values_and_encoding(head, 2, 2)?)),
            (8, STRUCT) => page = Some((id, values_and_encoding(head, 6, 4)?)),
            (6, STRUCT) => skip(head, kind, 0)?,
            (..=8, _) => return Err(Doubt::Wrong),
            _ => skip(head, kind, 0)?,
        }
        Ok(())
    })?;
    let [_, bytes, stored, _] = sizes.map(|n| u64::try_from(n).unwrap_or(u64::MAX));
    // Not there, or negative: the most there is.
    let mut fits = stored < u64::MAX && bytes <= stored.saturating_mul(expansion);
    if let Some((id, [values, encoding])) = page {
        // A dictionary's values take four bytes or more. The two delta encodings of texts begin with a count that the library
        // believes; nobody writes them unasked.
        fits &= values >= 0 && (id != 7 || (values as u64).saturating_mul(4) <= bytes);
        fits &= ![6, 7].contains(&encoding);
    }
    #[cfg(any(test, fuzzing))]
    super::super::meter::believe(if fits { bytes as usize } else { 0 });
    if fits { Ok(()) } else { Err(Doubt::Wrong) }
}

#[cfg(test)]
mod tests {
    use super::{Doubt, check, schema};

    /// A page's header: kind, bytes, bytes in the file; then a struct of numbers and, behind it, `more`.
    fn header(sizes: [u8; 3], kind: u8, numbers: &[u8], more: &[u8]) -> Vec<u8> {
        let field = |n: &u8| [0x15, 2 * n];
        let gap = (kind - 3) << 4 | 12;
        [
            &sizes.iter().flat_map(field).collect::<Vec<u8>>()[..],
            &[gap],
            &numbers.iter().flat_map(field).collect::<Vec<_>>(),
            &[0],
            more,
            &[0],
        ]
        .concat()
    }

    #[test]
    fn a_group_has_no_more_columns_than_there_are() {
        // A version; a root of `n` columns and one column that only has a name; no rows.
        let footer = |n: u8| [&[0x15, 2, 0x19, 0x2c, 0x55, 2 * n, 0, 0x48, 1, b'a', 0][..], &[0x16, 0, 0]].concat();
        assert_eq!((schema(&footer(1)), schema(&footer(2))), (Ok(()), Ok(())));
        assert_eq!(schema(&footer(3)), Err(Doubt::Wrong));
        assert_eq!(schema(&footer(1)[..8]), Err(Doubt::Short));
    }

    #[test]
    fn headers_are_believed_as_far_as_they_can_be_true() {
        let wrong = Err(Doubt::Wrong);
        // Page of data, 20 bytes of 10, 5 values, plain.
        let data = |more: &[u8]| header([0, 20, 10], 5, &[5, 0], more);
        assert_eq!(check(&data(&[]), 22), Ok(()));
        assert_eq!(check(&data(&[]), 1), wrong);
        assert_eq!(check(&header([0, 20, 10], 8, &[5, 0, 5, 0], &[]), 22), Ok(()));
        // A dictionary of as many values as fit, and of one more.
        assert_eq!(check(&header([2, 20, 10], 7, &[5, 0], &[]), 22), Ok(()));
        assert_eq!(check(&header([2, 20, 10], 7, &[6, 0], &[]), 22), wrong);
        // Delta encodings of texts.
        assert_eq!(check(&header([0, 20, 10], 5, &[5, 6], &[]), 22), wrong);
        assert_eq!(check(&header([3, 20, 10], 8, &[5, 0, 5, 7], &[]), 22), wrong);
        // Fields nobody knows: text, list of bytes, struct with a number. A list that is longer than what is left.
        assert_eq!(check(&data(&[0x48, 2, 1, 1, 0x19, 0x23, 1, 0, 0x1c, 0x15, 4, 0]), 22), Ok(()));
        // A known field of another kind; a list of truths.
        assert_eq!(check(&header([0, 20, 10], 5, &[5, 0], &[0x33, 0]), 22), wrong);
        assert_eq!(check(&data(&[0x49, 0x21, 1, 1]), 22), wrong);
        assert_eq!(check(&data(&[0x49, 0xfc, 0xff, 0xff, 0x7f]), 22), Err(Doubt::Short));
        // The bytes once more behind all else, as many as a library would believe.
        assert_eq!(check(&data(&[5, 4, 0xff, 0x7f]), 22), wrong);
        // Field 65,538, which is 2 in 16 bits; a number whose last 32 bits are small.
        assert_eq!(check(&data(&[5, 0x84, 0x80, 8, 2]), 22), wrong);
        let mut long = data(&[]);
        long.splice(5..6, [0x94, 0x80, 0x80, 0x80, 0x20]);
        assert_eq!(check(&long, 22), wrong);
        // Negative, cut short, no header.
        assert_eq!(check(&[0x15, 0, 0x15, 1, 0x15, 2, 0x2c, 0x15, 2, 0x15, 0, 0, 0], 22), wrong);
        assert_eq!(check(&data(&[])[..9], 22), Err(Doubt::Short));
        assert_eq!(check(b"PAR1", 22), wrong);
        assert_eq!(check(&[0x15, 0xff, 0xff], 22), Err(Doubt::Short));
    }
}
