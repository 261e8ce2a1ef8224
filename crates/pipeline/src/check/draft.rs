//! Nodes of a plan in the making.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Span;
use crate::plan::{Node, Work};
use crate::spec::{Fan, Spot};
use crate::stage::Type;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Area {
    Main,
    Finally,
}

/// A name of a stage in a template.
#[derive(Clone, Debug)]
pub(super) struct Mention {
    /// With plain fields: `load.count`.
    pub(super) path: String,
    pub(super) span: Span,
    pub(super) in_when: bool,
}

/// A node with what is needed to check it.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) id: String,
    pub(super) span: Span,
    pub(super) area: Area,
    /// As the author gave them.
    pub(super) named_needs: Vec<Spot<String>>,
    /// All of them.
    pub(super) needs: BTreeSet<String>,
    /// All must hold.
    pub(super) whens: Vec<Spot<String>>,
    pub(super) allow_failure: bool,
    pub(super) mentions: Vec<Mention>,
    pub(super) output: Type,
    /// Fields of the output, when they are known.
    pub(super) fields: Option<Vec<String>>,
    /// Steps that are not nodes, and so cannot be named.
    pub(super) steps: Vec<String>,
    /// A fan-out that came of a stage over items, and can be joined with its neighbours.
    pub(super) auto: Option<Auto>,
    pub(super) work: Work,
}

#[derive(Clone, Debug)]
pub(super) struct Auto {
    /// The node whose output it runs over, when that is all.
    pub(super) over: Option<String>,
    pub(super) fan: Fan,
}

impl Draft {
    pub(super) fn when(&self) -> Option<String> {
        match self.whens.as_slice() {
            [] => None,
            [one] => Some(one.value.clone()),
            several => Some(
                several
                    .iter()
                    .map(|when| format!("({})", when.value))
                    .collect::<Vec<_>>()
                    .join(" and "),
            ),
        }
    }

    pub(super) fn into_node(self) -> Node {
        Node {
            when: self.when(),
            id: self.id,
            needs: self.needs,
            allow_failure: self.allow_failure,
            work: self.work,
        }
    }
}

/// An output that the next stage may take as its input.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) output: Type,
    /// It can be null because the stage was skipped or its failure allowed.
    pub(super) may_skip: bool,
}

/// What a stage finds before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Flow {
    pub(super) needs: BTreeSet<String>,
    /// The nearest first: the first that is not null is the input.
    pub(super) candidates: Vec<Candidate>,
}

/// The input of a stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Feed {
    pub(super) template: Option<String>,
    /// What it may be, and which stage gives it.
    pub(super) types: Vec<(String, Type)>,
    /// The one stage that it comes from.
    pub(super) single: Option<String>,
}

impl Flow {
    pub(super) fn feed(&self) -> Feed {
        let certain = self.candidates.iter().position(|one| !one.may_skip);
        let taken = certain.map_or(&self.candidates[..], |at| &self.candidates[..=at]);
        let mut template = String::new();
        for (index, one) in taken.iter().enumerate() {
            let id = &one.id;
            if index + 1 == taken.len() {
                template.push_str(id);
            } else {
                template.push_str(&format!("{id} if {id} is not none else "));
            }
        }
        Feed {
            template: (!taken.is_empty()).then(|| format!("{{{{ {template} }}}}")),
            types: taken
                .iter()
                .map(|one| (one.id.clone(), one.output.clone()))
                .collect(),
            single: match taken {
                [one] => Some(one.id.clone()),
                _ => None,
            },
        }
    }
}

/// The object of several needs' outputs, as a template.
pub(super) fn object_of<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    let pairs: BTreeMap<&str, &str> = ids.into_iter().map(|id| (id, id)).collect();
    let pairs: Vec<String> = pairs.keys().map(|id| format!("'{id}': {id}")).collect();
    format!("{{{{ {{{}}} }}}}", pairs.join(", "))
}
