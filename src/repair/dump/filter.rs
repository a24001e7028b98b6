//! Conditions on metadata, with Chroma's operators and their meaning in 1.x: a number is compared with numbers of its own kind, and
//! `$ne` and `$nin` hold for records that do not have the key.

use std::cmp::Ordering;

use serde_json::Value;

use super::Metadata;

/// A condition.
#[derive(Debug, Clone)]
pub struct Filter(Condition);

#[derive(Debug, Clone)]
enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Key(String, Test),
}

#[derive(Debug, Clone)]
enum Test {
    Compares(Value, fn(Ordering) -> bool),
    Differs(Value),
    In(Vec<Value>),
    NotIn(Vec<Value>),
    Contains(Value),
    NotContains(Value),
}

/// What is wrong with a condition.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It is no JSON.
    #[error("it is no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is none that Chroma takes.
    #[error("{at}: expected {expected}")]
    Shape {
        /// Where: the keys that lead there.
        at: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// Conditions within conditions without an end.
    #[error("more than {DEPTH_MAX} conditions within each other")]
    Deep,
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let value: Value = serde_json::from_str(text)?;
        condition(&value, "the condition", 0).map(Self)
    }
}

impl Filter {
    /// Whether a record with this metadata is wanted.
    #[must_use]
    pub fn holds(&self, metadata: &Metadata) -> bool {
        self.0.holds(metadata)
    }
}

impl Condition {
    fn holds(&self, metadata: &Metadata) -> bool {
        match self {
            Self::All(all) => all.iter().all(|one| one.holds(metadata)),
            Self::Any(any) => any.iter().any(|one| one.holds(metadata)),
            Self::Key(key, test) => test.holds(metadata.get(key)),
        }
    }
}

impl Test {
    fn holds(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Differs(_) | Self::NotIn(_) | Self::NotContains(_), None) => true,
            (_, None) => false,
            (Self::Compares(wanted, fits), Some(value)) => order(value, wanted).is_some_and(fits),
            (Self::Differs(wanted), Some(value)) => order(value, wanted) != Some(Ordering::Equal),
            (Self::In(list), Some(value)) => list.iter().any(|one| equal(one, value)),
            (Self::NotIn(list), Some(value)) => !list.iter().any(|one| equal(one, value)),
            (Self::Contains(wanted), Some(value)) => has(value, wanted),
            (Self::NotContains(wanted), Some(value)) => !has(value, wanted),
        }
    }
}

fn has(value: &Value, wanted: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().any(|one| equal(one, wanted)))
}

fn equal(a: &Value, b: &Value) -> bool {
    order(a, b) == Some(Ordering::Equal)
}

/// How two values of one kind compare; `None` for those of different kinds.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            (None, None) => a.as_f64()?.partial_cmp(&b.as_f64()?),
            _ => None,
        },
        _ => None,
    }
}

fn condition(value: &Value, at: &str, depth: usize) -> Result<Condition, FilterError> {
    if depth > DEPTH_MAX {
        return Err(FilterError::Deep);
    }
    let wrong = |at: &str, expected| FilterError::Shape { at: at.to_owned(), expected };
    let object = value.as_object().filter(|object| object.len() == 1);
    let Some((key, value)) = object.and_then(|object| object.iter().next()) else {
        return Err(wrong(at, "an object with one key; several conditions stand in \"$and\""));
    };
    if key == "$and" || key == "$or" {
        let list = value.as_array().filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| wrong(key, "a list of conditions"))?;
        let all =
            list.iter().map(|one| condition(one, key, depth + 1)).collect::<Result<_, _>>()?;
        return Ok(if key == "$and" { Condition::All(all) } else { Condition::Any(all) });
    }
    if key.starts_with('$') {
        return Err(wrong(key, "$and, $or, or a key of the metadata"));
    }
    let Some(object) = value.as_object() else {
        return Ok(Condition::Key(key.clone(), compares(value, key, Ordering::is_eq)?));
    };
    let Some((operator, value)) = object.iter().next().filter(|_| object.len() == 1) else {
        return Err(wrong(key, "an object with one operator"));
    };
    let list = || {
        let list = value.as_array().filter(|list| !list.is_empty() && list.iter().all(is_plain));
        list.cloned().ok_or_else(|| wrong(operator, "a list of texts, numbers or truths"))
    };
    let single = || {
        let value = Some(value).filter(|value| is_plain(value));
        value.cloned().ok_or_else(|| wrong(operator, "a text, a number or a truth"))
    };
    let test = match operator.as_str() {
        "$eq" => compares(value, operator, Ordering::is_eq)?,
        "$gt" => compares(value, operator, Ordering::is_gt)?,
        "$gte" => compares(value, operator, Ordering::is_ge)?,
        "$lt" => compares(value, operator, Ordering::is_lt)?,
        "$lte" => compares(value, operator, Ordering::is_le)?,
        "$ne" => Test::Differs(single()?),
        "$in" => Test::In(list()?),
        "$nin" => Test::NotIn(list()?),
        "$contains" => Test::Contains(single()?),
        "$not_contains" => Test::NotContains(single()?),
        _ => {
            return Err(wrong(
                operator,
                "$eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $contains or $not_contains",
            ));
        }
    };
    Ok(Condition::Key(key.clone(), test))
}

fn compares(value: &Value, at: &str, fits: fn(Ordering) -> bool) -> Result<Test, FilterError> {
    if is_plain(value) {
        return Ok(Test::Compares(value.clone(), fits));
    }
    Err(FilterError::Shape { at: at.to_owned(), expected: "a text, a number or a truth" })
}

const fn is_plain(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

const DEPTH_MAX: usize = 32;
