//! From text to trees: several documents, duplicate keys refused, aliases and `<<` merges resolved.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::{Mapping, Scalar, Value};

/// Nodes a text may expand to through aliases, so that a few lines cannot fill the memory.
const NODE_LIMIT: usize = 200_000;

/// Why a text is no YAML that can be used; lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("yaml: while parsing a flow node at line {line}: did not find expected node content")]
    FlowNode { line: usize },
    #[error("yaml: line {line}: {message}")]
    Syntax { line: usize, message: String },
    #[error("yaml: line {line}: mapping key {key:?} already defined at line {first}")]
    DuplicateKey { key: String, line: usize, first: usize },
    #[error("yaml: line {line}: a mapping key must be a scalar")]
    ComplexKey { line: usize },
    #[error("yaml: line {line}: map merge requires map or sequence of maps as the value")]
    Merge { line: usize },
    #[error("yaml: line {line}: the text expands to more than {NODE_LIMIT} nodes")]
    TooLarge { line: usize },
}

/// Reads every document of a text; empty documents are left out.
pub fn parse(text: &str) -> Result<Vec<Value>, Error> {
    let mut composer = Composer::new(text);
    let mut documents = Vec::new();
    loop {
        match composer.next()?.0 {
            Event::StreamEnd => return Ok(documents),
            Event::DocumentStart(..) => {
                let document = composer.node()?;
                if !document.is_null() {
                    documents.push(document);
                }
                composer.anchors.clear();
            }
            _ => {}
        }
    }
}

struct Composer<'text> {
    text: &'text str,
    events: Box<dyn Iterator<Item = Result<(Event<'text>, Span), ScanError>> + 'text>,
    anchors: HashMap<usize, Value>,
    nodes: usize,
    last_line: usize,
}

impl<'text> Composer<'text> {
    fn new(text: &'text str) -> Self {
        let events = Box::new(Parser::new_from_str(text));
        Self { text, events, anchors: HashMap::new(), nodes: 0, last_line: 1 }
    }

    fn next(&mut self) -> Result<(Event<'text>, usize), Error> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => {
                    self.last_line = span.start.line();
                    return Ok((event, self.last_line));
                }
                Some(Err(error)) => return Err(self.syntax(&error)),
                None => return Ok((Event::StreamEnd, self.last_line)),
            }
        }
    }

    fn node(&mut self) -> Result<Value, Error> {
        let event = self.next()?;
        self.node_from(event)
    }

    fn node_from(&mut self, (event, line): (Event<'text>, usize)) -> Result<Value, Error> {
        self.count(1, line)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let is_plain = style == ScalarStyle::Plain && tag.is_none_or(|tag| tag.suffix() != "str");
                let scalar = if is_plain { Scalar::plain(text) } else { Scalar::string(text) };
                (Value::Scalar(scalar.at_line(line)), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence()?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(line)?, anchor),
            Event::Alias(id) => {
                let value = self.anchors.get(&id).cloned().unwrap_or_else(Value::null);
                self.count(size(&value), line)?;
                (value, 0)
            }
            _ => return Err(Error::Syntax { line, message: "did not find expected node content".to_owned() }),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self) -> Result<Value, Error> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Sequence(items)),
                event => items.push(self.node_from(event)?),
            }
        }
    }

    fn mapping(&mut self, line: usize) -> Result<Value, Error> {
        let mut mapping = Mapping { line, ..Mapping::default() };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut merged = Vec::new();
        loop {
            let (event, key_line) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let is_plain = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, _, _));
            let Value::Scalar(key) = self.node_from((event, key_line))? else {
                return Err(Error::ComplexKey { line: key_line });
            };
            let value = self.node()?;
            if is_plain && key.text() == "<<" {
                merged.push((value, key_line));
                continue;
            }
            if let Some(first) = seen.insert(key.text().to_owned(), key_line) {
                return Err(Error::DuplicateKey { key: key.text().to_owned(), line: key_line, first });
            }
            mapping.entries.push((key.text().to_owned(), value));
        }
        for (value, line) in merged {
            merge_into(&mut mapping, value, line)?;
        }
        Ok(Value::Mapping(mapping))
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Error> {
        self.nodes += nodes;
        if self.nodes > NODE_LIMIT { Err(Error::TooLarge { line }) } else { Ok(()) }
    }

    fn syntax(&self, error: &ScanError) -> Error {
        let trimmed = self.text.trim_end();
        let last_line = trimmed.lines().count().max(1);
        let line = error.marker().line();
        if trimmed.ends_with(['[', '{', ',']) && line >= last_line {
            return Error::FlowNode { line: last_line };
        }
        Error::Syntax { line, message: error.info() }
    }
}

/// Adds the entries of a `<<` value that the mapping does not have itself.
fn merge_into(mapping: &mut Mapping, value: Value, line: usize) -> Result<(), Error> {
    match value {
        Value::Mapping(defaults) => {
            for (key, value) in defaults {
                if mapping.get(&key).is_none() {
                    mapping.set(key, value);
                }
            }
            Ok(())
        }
        Value::Sequence(items) => items.into_iter().try_for_each(|item| match item {
            Value::Mapping(_) => merge_into(mapping, item, line),
            _ => Err(Error::Merge { line }),
        }),
        Value::Scalar(_) => Err(Error::Merge { line }),
    }
}

fn size(value: &Value) -> usize {
    1 + match value {
        Value::Scalar(_) => 0,
        Value::Sequence(items) => items.iter().map(size).sum(),
        Value::Mapping(mapping) => mapping.iter().map(|(_, value)| size(value)).sum(),
    }
}
