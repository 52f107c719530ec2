//! The sum over the rows of a table that does not depend on their order, and is the same on both sides if the rows are: what each
//! server is asked. No IO.

use stolon_postgres::quote::sql_identifier;

/// A table that both sides have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Schema and name, quoted.
    pub name: String,
    /// In their order.
    pub columns: Vec<Column>,
    /// Size in pages, on the side that is written to.
    pub pages: u64,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// The base type, below domains: `float8`, `_float8` for an array of them.
    pub kind: String,
}

/// How the text of a row becomes a number of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// The hash of hash partitioning: quick, there since 11, and the same on machines with the same order of bytes.
    Extended,
    /// The first half of the MD5 digest of the bytes in UTF-8, whatever the encoding of the database.
    Md5,
}

/// How floating-point numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floats {
    /// As text: both majors write the same.
    Text,
    /// By their bits: since 12 the shortest text that is exact is written, and before, one of 17 digits
    /// (PostgreSQL release notes 12, `extra_float_digits`).
    Bits,
}

/// How the rows of both sides are made comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Of a row's text.
    pub hash: Hash,
    /// In it.
    pub floats: Floats,
}

/// What is known of a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// `15` of 15.4.
    pub major: u16,
    /// Of the database.
    pub encoding: String,
    /// The hash of a known text; none: this server has no such function.
    pub probe: Option<String>,
}

impl Method {
    /// What both sides can do, with the same result.
    pub fn of(one: &Abilities, other: &Abilities) -> Method {
        let same_hash = one.probe.is_some() && one.probe == other.probe && one.encoding == other.encoding;
        let crosses = (one.major < 12) != (other.major < 12);
        Method {
            hash: if same_hash { Hash::Extended } else { Hash::Md5 },
            floats: if crosses { Floats::Bits } else { Floats::Text },
        }
    }

    /// What a session is told before it writes any row as text: the same for everybody, whatever the server, the database or the role
    /// have set.
    pub fn session(self) -> String {
        let digits = match self.floats {
            Floats::Text => 3,
            // For those that are within other types: what both majors write alike.
            Floats::Bits => 0,
        };
        format!(
            "SET extra_float_digits = {digits}; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; \
             SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET search_path = pg_catalog; SET row_security = off; \
             SET quote_all_identifiers = off; SET enable_seqscan = on; SET max_parallel_workers_per_gather = 0; \
             SET xmlbinary = 'base64'; SET standard_conforming_strings = on"
        )
    }

    /// The number of rows, and the sum of their hashes.
    pub fn query(self, table: &Table, chunk: Chunk) -> String {
        let text = self.row(&table.columns);
        let hash = match self.hash {
            Hash::Extended => format!("hashtextextended({text} COLLATE \"C\", 0)"),
            Hash::Md5 => format!("('x' || substr(md5(convert_to({text}, 'UTF8')), 1, 16))::bit(64)::bigint"),
        };
        format!("SELECT count(*), coalesce(sum({hash}), 0) FROM ONLY {} t{}", table.name, chunk.condition())
    }

    fn row(self, columns: &[Column]) -> String {
        let columns: Vec<String> = columns.iter().map(|column| self.column(column)).collect();
        match columns.is_empty() {
            true => "''::text".to_owned(),
            false => format!("ROW({})::text", columns.join(", ")),
        }
    }

    fn column(self, column: &Column) -> String {
        let name = format!("t.{}", sql_identifier(&column.name));
        let send = match (self.floats, column.kind.as_str()) {
            (Floats::Text, _) => None,
            (Floats::Bits, "float4") => Some("float4send"),
            (Floats::Bits, "float8") => Some("float8send"),
            (Floats::Bits, "_float4" | "_float8") => Some("array_send"),
            (Floats::Bits, "point") => Some("point_send"),
            (Floats::Bits, "lseg") => Some("lseg_send"),
            (Floats::Bits, "path") => Some("path_send"),
            (Floats::Bits, "box") => Some("box_send"),
            (Floats::Bits, "polygon") => Some("poly_send"),
            (Floats::Bits, "line") => Some("line_send"),
            (Floats::Bits, "circle") => Some("circle_send"),
            (Floats::Bits, _) => None,
        };
        match send {
            Some(send) => format!("{send}({name})"),
            None => name,
        }
    }
}

/// A part of a table: pages from one to before another. A whole is the sum of its parts, so the two sides need not be cut alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The first page.
    pub from: u64,
    /// The first page of the next one; none: to the end, wherever that is by now.
    pub to: Option<u64>,
}

/// Pages of one chunk: 256 MiB.
const CHUNK: u64 = 32_768;
/// Ranges of `ctid` are read without reading the rest since this major (release notes 14).
const READS_RANGES: u16 = 14;

/// The parts of a table of this many pages, on a server of this major.
pub fn chunks(pages: u64, major: u16) -> Vec<Chunk> {
    let number = if major < READS_RANGES { 1 } else { pages.div_ceil(CHUNK).max(1) };
    (0..number)
        .map(|index| Chunk { from: index * CHUNK, to: (index + 1 < number).then_some((index + 1) * CHUNK) })
        .collect()
}

impl Chunk {
    fn condition(self) -> String {
        let from = (self.from > 0).then(|| format!("t.ctid >= '({},0)'", self.from));
        let to = self.to.map(|to| format!("t.ctid < '({to},0)'"));
        let both: Vec<String> = from.into_iter().chain(to).collect();
        match both.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", both.join(" AND ")),
        }
    }
}

/// Rows, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// Of 64-bit numbers: 2^63 of them fit.
    pub hash: i128,
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.rows += other.rows;
        self.hash += other.hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(major: u16, encoding: &str, probe: Option<&str>) -> Abilities {
        Abilities { major, encoding: encoding.to_owned(), probe: probe.map(str::to_owned) }
    }

    #[test]
    fn both_sides_are_asked_what_both_answer_alike() {
        let utf8 = |major| abilities(major, "UTF8", Some("42"));
        for (one, other, hash, floats) in [
            (utf8(15), utf8(15), Hash::Extended, Floats::Text),
            (utf8(12), utf8(18), Hash::Extended, Floats::Text),
            (utf8(11), utf8(12), Hash::Extended, Floats::Bits),
            (abilities(10, "UTF8", None), abilities(10, "UTF8", None), Hash::Md5, Floats::Text),
            (abilities(10, "UTF8", None), utf8(18), Hash::Md5, Floats::Bits),
            // Another encoding, another order of bytes.
            (utf8(15), abilities(15, "LATIN1", Some("42")), Hash::Md5, Floats::Text),
            (utf8(15), abilities(15, "UTF8", Some("24")), Hash::Md5, Floats::Text),
        ] {
            assert_eq!(Method::of(&one, &other), Method { hash, floats }, "{one:?} {other:?}");
            assert_eq!(Method::of(&other, &one), Method { hash, floats }, "{one:?} {other:?}");
        }
    }

    #[test]
    fn chunks_cover_every_page_once() {
        assert_eq!(chunks(0, 15), [Chunk { from: 0, to: None }]);
        assert_eq!(chunks(CHUNK * 9, 13), [Chunk { from: 0, to: None }]);
        for pages in [1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let chunks = chunks(pages, 14);
            assert_eq!(chunks.first().map(|chunk| chunk.from), Some(0), "{pages}");
            assert_eq!(chunks.last().map(|chunk| chunk.to), Some(None), "{pages}");
            for pair in chunks.windows(2) {
                assert_eq!(pair[0].to, Some(pair[1].from), "{pages}");
            }
        }
    }

    #[test]
    fn names_and_floats_are_written_so_that_both_understand_them() {
        let columns = [("a\"b", "text"), ("F", "float8"), ("fs", "_float4")]
            .map(|(name, kind)| Column { name: name.to_owned(), kind: kind.to_owned() });
        let table = Table { name: "\"S\".\"T\"".to_owned(), columns: columns.into(), pages: 1 };
        let text = Method { hash: Hash::Extended, floats: Floats::Text };
        assert_eq!(
            text.query(&table, Chunk { from: 0, to: Some(5) }),
            "SELECT count(*), coalesce(sum(hashtextextended(ROW(t.\"a\"\"b\", t.\"F\", t.\"fs\")::text COLLATE \"C\", 0)), 0) \
             FROM ONLY \"S\".\"T\" t WHERE t.ctid < '(5,0)'"
        );
        let bits = Method { hash: Hash::Md5, floats: Floats::Bits };
        let query = bits.query(&table, Chunk { from: 5, to: None });
        assert!(query.contains("ROW(t.\"a\"\"b\", float8send(t.\"F\"), array_send(t.\"fs\"))"), "{query}");
        assert!(query.ends_with("t WHERE t.ctid >= '(5,0)'"), "{query}");
        let bare = Table { columns: Vec::new(), ..table };
        assert!(text.query(&bare, Chunk { from: 0, to: None }).contains("hashtextextended(''::text"));
    }
}
