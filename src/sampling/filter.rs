//! `--where` filters on the columns of a table: `cloud_cover<=20`, `nodata<0.1`, `timestamp>=2020-01-01`, `orbit_state=ascending`.

use std::cmp::Ordering;

use anyhow::{Context, Result, ensure};

use super::table::{Column, Table};

/// One comparison; a null never passes.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    pub column: String,
    operator: Operator,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Longer operators first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 7] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("!=", Operator::NotEqual),
    ("==", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
    ("=", Operator::Equal),
];

impl Filter {
    /// Reads `column operator value`.
    pub fn parse(text: &str) -> Result<Filter> {
        let at = text.find(['<', '>', '=', '!']);
        let found = at.and_then(|at| {
            let rest = &text[at..];
            OPERATORS.iter().find(|(sign, _)| rest.starts_with(sign)).map(|&(sign, operator)| Filter {
                column: text[..at].trim().to_string(),
                operator,
                value: rest[sign.len()..].trim().trim_matches(['"', '\'']).to_string(),
            })
        });
        let filter =
            found.with_context(|| format!("--where `{text}`: expected a comparison such as cloud_cover<=20"))?;
        ensure!(
            !filter.column.is_empty() && !filter.value.is_empty(),
            "--where `{text}`: expected a column, an operator and a value"
        );
        Ok(filter)
    }

    /// The index of its column.
    pub fn index(&self, table: &Table) -> Result<usize> {
        table.require(&self.column).with_context(|| format!("--where {}", self.column))
    }

    /// Whether a value passes: numbers compare as numbers, text (dates in ISO form too) by its bytes.
    pub fn passes(&self, column: &Column, row: usize, place: impl Fn() -> String) -> Result<bool> {
        let order = match column {
            Column::Text(values) => match &values[row] {
                None => return Ok(false),
                Some(text) => match (text.parse::<f64>(), self.value.parse::<f64>()) {
                    (Ok(a), Ok(b)) => a.partial_cmp(&b),
                    _ => Some(text.as_ref().cmp(self.value.as_str())),
                },
            },
            _ => {
                let value: f64 = self.value.parse().ok().with_context(|| {
                    format!(
                        "{}: a column of numbers, compared with `{}`: expected a number after --where",
                        place(),
                        self.value
                    )
                })?;
                column.number(row).and_then(|a| a.partial_cmp(&value))
            }
        };
        Ok(order.is_some_and(|order| match self.operator {
            Operator::Less => order == Ordering::Less,
            Operator::LessOrEqual => order != Ordering::Greater,
            Operator::Greater => order == Ordering::Greater,
            Operator::GreaterOrEqual => order != Ordering::Less,
            Operator::Equal => order == Ordering::Equal,
            Operator::NotEqual => order != Ordering::Equal,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_numbers_and_text() {
        let numbers = Column::Float(vec![Some(5.0), Some(20.0), None, Some(f64::NAN)]);
        let text = Column::Text(vec![Some("2019-12-31T23:00:00Z".into()), Some("2020-01-01T00:00:00Z".into()), None]);
        let hits = |filter: &str, column: &Column| -> Vec<bool> {
            let filter = Filter::parse(filter).unwrap();
            (0..column.len()).map(|row| filter.passes(column, row, String::new).unwrap()).collect()
        };
        assert_eq!(hits("c<20", &numbers), [true, false, false, false]);
        assert_eq!(hits("c <= 20", &numbers), [true, true, false, false]);
        assert_eq!(hits("c!=5", &numbers), [false, true, false, false]);
        assert_eq!(hits("t>=2020-01-01", &text), [false, true, false]);
        assert_eq!(hits("t<'2020-01-01'", &text), [true, false, false]);
    }

    #[test]
    fn refuses_what_is_no_comparison() {
        for text in ["", "cloud", "<5", "a<", "a!5"] {
            assert!(Filter::parse(text).is_err(), "{text}");
        }
        let filter = Filter::parse("c<abc").unwrap();
        assert!(filter.passes(&Column::Float(vec![Some(1.0)]), 0, || "x.csv: row 0".into()).is_err());
    }
}
