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
    /// The base type, below domains: `float8`, `_float8` for an array of them. Empty: it is none of PostgreSQL's own.
    pub kind: String,
}

/// How values and rows become numbers of 64 bits. What is found by it: a row that differs has another number but for one case in 2^64, so
/// the sum over the rows is another one; a sum, since what comes twice would cancel itself out in an exclusive or.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// The hash of hash partitioning: quick, there since 11, and the same on machines with the same order of bytes.
    Extended,
    /// Two of 32 bits, which 10 has, too, of the value and of the value behind another letter.
    Pair,
    /// The MD5 digest of the bytes in UTF-8, whatever the encoding of the database.
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
    /// Of values.
    pub hash: Hash,
    /// As values.
    pub floats: Floats,
}

/// What is known of a side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// `15` of 15.4.
    pub major: u16,
    /// Of the database.
    pub encoding: String,
    /// What [`Hash::Pair`] makes of known texts.
    pub pair: String,
    /// What [`Hash::Extended`] makes of known values; none: this server has no such functions.
    pub extended: Option<String>,
}

/// What [`Hash::Pair`] makes of texts of all lengths that are hashed by other ways. That these functions are the same in all majors and on all machines is
/// documented nowhere, so it is asked.
pub const PAIR_PROBE: &str =
    "SELECT sum(hashtext((repeat('stolon', n) || n) COLLATE \"C\")) FROM generate_series(0, 40) n";
/// What [`Hash::Extended`] makes of them.
pub const EXTENDED_PROBE: &str = "SELECT sum(hashtextextended((repeat('stolon', n) || n) COLLATE \"C\", 0)::numeric \
    + hash_array_extended(ARRAY[decode(repeat('00ff', n), 'hex')], 0)) FROM generate_series(0, 40) n";
/// The first major that has them.
pub const EXTENDED_SINCE: u16 = 11;

impl Method {
    /// What both sides can do, with the same result.
    pub fn of(one: &Abilities, other: &Abilities) -> Method {
        let same_bytes = one.encoding == other.encoding;
        let crosses = (one.major < 12) != (other.major < 12);
        Method {
            hash: match same_bytes {
                true if one.extended.is_some() && one.extended == other.extended => Hash::Extended,
                true if one.pair == other.pair => Hash::Pair,
                _ => Hash::Md5,
            },
            floats: if crosses { Floats::Bits } else { Floats::Text },
        }
    }

    /// What a session with a server of this major is told before it writes any value as text: the same for everybody, whatever the server, the database or
    /// the role have set.
    pub fn session(self, major: u16) -> String {
        let digits = match self.floats {
            Floats::Text => 3,
            // For those that are within other types: what both majors write alike.
            Floats::Bits => 0,
        };
        // A large table is read by several processes where it cannot be cut into parts.
        let workers = if major < READS_RANGES { 1 } else { 0 };
        format!(
            "SET extra_float_digits = {digits}; SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET intervalstyle = 'postgres'; \
             SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET search_path = pg_catalog; SET row_security = off; \
             SET quote_all_identifiers = off; SET enable_seqscan = on; SET max_parallel_workers_per_gather = {workers}; \
             SET xmlbinary = 'base64'; SET standard_conforming_strings = on; \
             SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'jit'"
        )
    }

    /// The number of rows, and the sum of their hashes.
    pub fn query(self, table: &Table, chunk: Chunk) -> String {
        let columns: Vec<&Column> = table.columns.iter().collect();
        let hash = match self.hash {
            Hash::Extended => self.chained(&columns),
            Hash::Pair | Hash::Md5 => {
                format!("('x' || substr(md5({}), 1, 16))::bit(64)::bigint", self.row(&columns))
            }
        };
        format!("SELECT count(*), coalesce(sum({hash}), 0) FROM ONLY {} t{}", table.name, chunk.condition())
    }

    /// The hash of a row by [`Hash::Extended`]: the hash of each value is the seed of the next one's, so no text is made of what is text already, or a
    /// number of whole. Seeds have 64 bits, all of which count. What has no such hash is written as text, and hashed together in the end.
    fn chained(self, columns: &[&Column]) -> String {
        let (own, written): (Vec<&Column>, Vec<&Column>) =
            columns.iter().copied().partition(|column| HASHED.contains(&column.kind.as_str()));
        // Calls within calls: PostgreSQL goes only so deep into them.
        let chains = own
            .chunks(LINKS)
            .map(|some| some.iter().fold(NO_SEED.to_owned(), |seed, column| linked(column, &seed)));
        // One is hashed once more than the other: two that change places are not the same as before.
        let both = |seed, next| format!("hashint4extended(1, hashint4extended(2, {seed}) # {next})");
        let seed = chains.reduce(both).unwrap_or_else(|| NO_SEED.to_owned());
        match written.is_empty() && !own.is_empty() {
            true => seed,
            false => format!("hashtextextended({} COLLATE \"C\", {seed})", self.row(&written)),
        }
    }

    /// The values of a row, each behind the one before and a `|`. No value holds that, and only null is nothing. What `ROW(…)::text` writes says the
    /// same, and takes seven times as long, letter by letter.
    fn row(self, columns: &[&Column]) -> String {
        let mut parts: Vec<String> = columns.iter().map(|&column| self.value(column)).collect();
        while parts.len() > 1 {
            parts = parts.chunks(ARGUMENTS).map(|some| format!("concat({})", some.join(", '|', "))).collect();
        }
        match parts.pop() {
            None => "''::text".to_owned(),
            Some(part) if columns.len() == 1 => format!("concat({part})"),
            Some(part) => part,
        }
    }

    /// A value as something that `concat` writes without a `|`, and as nothing only if it is null; or a hash of it where that cannot be known, or is long.
    fn value(self, column: &Column) -> String {
        let name = format!("t.{}", sql_identifier(&column.name));
        match (column.kind.as_str(), self.floats) {
            (kind, Floats::Bits) if sent_as_bits(kind).is_some() => {
                format!("{}({name})", sent_as_bits(kind).unwrap_or_default())
            }
            (kind, _) if PLAIN.contains(&kind) => name,
            ("text" | "varchar", _) => self.hashed(&format!("{name}::text")),
            ("bytea", _) => format!("md5({name}::bytea)"),
            // By the type's own output: a cast to text may leave something out, as that of char(n) does.
            _ => self.hashed(&format!("concat(num_nulls({name}), {name})")),
        }
    }

    fn hashed(self, text: &str) -> String {
        match self.hash {
            Hash::Extended => format!("hashtextextended({text} COLLATE \"C\", 0)"),
            Hash::Pair => {
                format!("concat(hashtext({text} COLLATE \"C\"), '.', hashtext('x' || {text} COLLATE \"C\"))")
            }
            Hash::Md5 => format!("md5(convert_to({text}, 'UTF8'))"),
        }
    }
}

/// Types with a hash of 64 bits that differs if the values do, and that takes a seed.
const HASHED: &[&str] = &["bool", "int2", "int4", "int8", "text", "varchar", "bytea", "uuid"];

/// Calls within calls, at most: PostgreSQL's parser goes only so deep.
const LINKS: usize = 32;

const NO_SEED: &str = "0::bigint";

/// The hash of a value of one of these types, with a seed. Null is another seed, since the functions make null of it. The hash of `int8` makes 32
/// bits of its 64 first, so these are a seed, too.
fn linked(column: &Column, seed: &str) -> String {
    let name = format!("t.{}", sql_identifier(&column.name));
    let or_null = format!("{seed} # CASE WHEN {name} IS NULL THEN 1::bigint ELSE 0 END");
    match column.kind.as_str() {
        "int8" => format!(
            "hashint4extended(CASE WHEN {name} IS NULL THEN 1 ELSE 0 END, {seed} # coalesce({name}::bigint, 0))"
        ),
        "bytea" => format!("hash_array_extended(ARRAY[coalesce({name}::bytea, '')], {or_null})"),
        "uuid" => format!(
            "uuid_hash_extended(coalesce({name}::uuid, '00000000-0000-0000-0000-000000000000'), {or_null})"
        ),
        "text" | "varchar" => {
            format!("hashtextextended(coalesce({name}::text, '') COLLATE \"C\", {or_null})")
        }
        _ => format!("hashint4extended(coalesce({name}::int4, 0), {or_null})"),
    }
}

/// Values that a call of `concat` takes, with the signs between them: a function has no more than 100 arguments.
const ARGUMENTS: usize = 48;

/// Types of PostgreSQL that are short, and write neither nothing nor a `|`; the same in all majors with the settings of [`Method::session`].
const PLAIN: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "date",
    "time",
    "timetz",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "inet",
    "cidr",
    "macaddr",
    "pg_lsn",
];

/// The function that gives the bits of a type that is made of floating-point numbers.
fn sent_as_bits(kind: &str) -> Option<&'static str> {
    match kind {
        "float4" => Some("float4send"),
        "float8" => Some("float8send"),
        "_float4" | "_float8" => Some("array_send"),
        "point" => Some("point_send"),
        "lseg" => Some("lseg_send"),
        "path" => Some("path_send"),
        "box" => Some("box_send"),
        "polygon" => Some("poly_send"),
        "line" => Some("line_send"),
        "circle" => Some("circle_send"),
        _ => None,
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

    fn abilities(major: u16, encoding: &str, pair: &str, extended: Option<&str>) -> Abilities {
        let (encoding, pair) = (encoding.to_owned(), pair.to_owned());
        Abilities { major, encoding, pair, extended: extended.map(str::to_owned) }
    }

    #[test]
    fn both_sides_are_asked_what_both_answer_alike() {
        let utf8 = |major| abilities(major, "UTF8", "7", Some("42"));
        for (one, other, hash, floats) in [
            (utf8(15), utf8(15), Hash::Extended, Floats::Text),
            (utf8(12), utf8(18), Hash::Extended, Floats::Text),
            (utf8(11), utf8(12), Hash::Extended, Floats::Bits),
            (abilities(10, "UTF8", "7", None), abilities(10, "UTF8", "7", None), Hash::Pair, Floats::Text),
            (abilities(10, "UTF8", "7", None), utf8(18), Hash::Pair, Floats::Bits),
            // Another encoding, another order of bytes.
            (utf8(15), abilities(15, "LATIN1", "7", Some("42")), Hash::Md5, Floats::Text),
            (utf8(15), abilities(15, "UTF8", "7", Some("24")), Hash::Pair, Floats::Text),
            (utf8(15), abilities(15, "UTF8", "8", Some("24")), Hash::Md5, Floats::Text),
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

    fn table(columns: &[(&str, &str)]) -> Table {
        let column =
            |(name, kind): &(&str, &str)| Column { name: (*name).to_owned(), kind: (*kind).to_owned() };
        Table { name: "\"S\".\"T\"".to_owned(), columns: columns.iter().map(column).collect(), pages: 1 }
    }

    #[test]
    fn names_and_floats_are_written_so_that_both_understand_them() {
        let columns = [("a\"b", "text"), ("c", "bpchar"), ("F", "float8"), ("fs", "_float4"), ("x", "bytea")];
        let text = Method { hash: Hash::Extended, floats: Floats::Text };
        assert_eq!(
            text.query(&table(&columns), Chunk { from: 0, to: Some(5) }),
            "SELECT count(*), coalesce(sum(hashtextextended(concat(\
             hashtextextended(concat(num_nulls(t.\"c\"), t.\"c\") COLLATE \"C\", 0), '|', t.\"F\", '|', \
             hashtextextended(concat(num_nulls(t.\"fs\"), t.\"fs\") COLLATE \"C\", 0)) COLLATE \"C\", \
             hash_array_extended(ARRAY[coalesce(t.\"x\"::bytea, '')], \
             hashtextextended(coalesce(t.\"a\"\"b\"::text, '') COLLATE \"C\", \
             0::bigint # CASE WHEN t.\"a\"\"b\" IS NULL THEN 1::bigint ELSE 0 END) \
             # CASE WHEN t.\"x\" IS NULL THEN 1::bigint ELSE 0 END))), 0) \
             FROM ONLY \"S\".\"T\" t WHERE t.ctid < '(5,0)'"
        );
        let bits = Method { hash: Hash::Md5, floats: Floats::Bits };
        let query = bits.query(&table(&columns), Chunk { from: 5, to: None });
        assert!(
            query.contains("float8send(t.\"F\"), '|', array_send(t.\"fs\"), '|', md5(t.\"x\"::bytea))"),
            "{query}"
        );
        assert!(query.ends_with("t WHERE t.ctid >= '(5,0)'"), "{query}");
        assert!(text.query(&table(&[]), Chunk { from: 0, to: None }).contains("hashtextextended(''::text"));
        let one = text.query(&table(&[("i", "date")]), Chunk { from: 0, to: None });
        assert!(one.contains("hashtextextended(concat(t.\"i\") COLLATE"), "{one}");
        let one = text.query(&table(&[("i", "int4")]), Chunk { from: 0, to: None });
        assert!(one.contains("sum(hashint4extended(coalesce(t.\"i\"::int4, 0), 0::bigint # CASE"), "{one}");
    }

    #[test]
    fn no_function_is_given_more_than_it_takes() {
        let names: Vec<String> = (0..1600).map(|number| format!("c{number}")).collect();
        let columns: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "date")).collect();
        let query = Method { hash: Hash::Extended, floats: Floats::Text }
            .query(&table(&columns), Chunk { from: 0, to: None });
        let most = query
            .split("concat(")
            .map(|part| part.split(')').next().unwrap_or_default().matches(',').count() + 1);
        assert!(most.max() <= Some(2 * ARGUMENTS), "{query}");
    }
}
