//! Stages to nodes, in the order of the file. Names in templates are collected here and looked up
//! by [`order`](super::order), when all nodes are known.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::diagnostic::{Findings, Span};
use crate::plan;
use crate::spec::{Branch, Pipeline, Spot, Stage, Work};
use crate::stage::Type;
use crate::template;
use crate::yaml::Tree;

use super::Shared;
use super::draft::{Area, Candidate, Draft, Feed, Flow, Mention, object_of};
use super::expression::{ItemRule, Reader};
use super::ids::{self, Ids};
use super::inputs;

pub(super) struct Lowering<'a> {
    pub(super) findings: &'a mut Findings,
    pub(super) shared: &'a Shared<'a>,
    pub(super) files: &'a [String],
    pub(super) spec: &'a Pipeline,
    /// JSON Schema of the run's inputs.
    pub(super) inputs: &'a Value,
    pub(super) ids: Ids,
    pub(super) area: Area,
    drafts: Vec<Draft>,
    /// What comes after a node, by its id.
    flows: BTreeMap<String, Flow>,
    /// Conditions of the `parallel` stages around.
    guards: Vec<Spot<String>>,
    outputs_mention: Vec<Mention>,
    used_inputs: BTreeSet<String>,
}

/// What becomes of a stage, without what all have in common.
pub(super) struct Made {
    pub(super) work: plan::Work,
    pub(super) output: Type,
    pub(super) fields: Option<Vec<String>>,
    pub(super) mentions: Vec<Mention>,
    pub(super) steps: Vec<String>,
    pub(super) auto: Option<super::draft::Auto>,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(
        findings: &'a mut Findings,
        shared: &'a Shared<'a>,
        files: &'a [String],
        spec: &'a Pipeline,
        inputs: &'a Value,
    ) -> Self {
        Self {
            findings,
            shared,
            files,
            spec,
            inputs,
            ids: Ids::default(),
            area: Area::Main,
            drafts: Vec::new(),
            flows: BTreeMap::new(),
            guards: Vec::new(),
            outputs_mention: Vec::new(),
            used_inputs: BTreeSet::new(),
        }
    }

    pub(super) fn finish(self) -> (Vec<Draft>, Vec<Mention>) {
        (self.drafts, self.outputs_mention)
    }

    /// A list of stages that begins with nothing before it; gives the last one's id.
    pub(super) fn stages(&mut self, stages: &[Stage], area: Area) -> Option<String> {
        self.area = area;
        let mut flow = Flow::default();
        let mut last = None;
        for stage in stages {
            let id = self.stage(stage, None, &mut flow);
            last = Some(id);
        }
        last
    }

    /// One stage. `flow` is what comes before it, and then what comes after.
    fn stage(&mut self, stage: &Stage, fallback: Option<&str>, flow: &mut Flow) -> String {
        let id = self.ids.claim(stage, fallback, self.findings);
        let mut before = self.before(stage, flow);
        if let Work::Parallel(branches) = &stage.work {
            *flow = self.parallel(stage, &id, branches, &before);
            return id;
        }
        // An approval says nothing that a stage could work on.
        let passes = matches!(stage.work, Work::Approve(_) | Work::Unclear);
        let made = match &stage.work {
            Work::Uses(uses) => self.uses(&id, stage, uses, &before),
            Work::Approve(approve) => self.approve(approve),
            Work::Map(map) => self.map(&id, stage, map, &before),
            Work::Call(call) => self.call(call),
            Work::Parallel(_) | Work::Unclear => None,
        };
        let output = made.as_ref().map_or(Type::Any, |made| made.output.clone());
        // What cannot be made is kept by its id, so that those who name it are not blamed.
        let made = made.unwrap_or_else(Made::nothing);
        self.push(stage, &id, before.needs.clone(), made);
        if !passes {
            let may_skip = stage.when.is_some() || stage.allow_failure;
            before.candidates.insert(
                0,
                Candidate {
                    id: id.clone(),
                    output,
                    may_skip,
                },
            );
        }
        before.needs = BTreeSet::from([id.clone()]);
        *flow = before;
        self.flows.insert(id.clone(), flow.clone());
        id
    }

    /// What a stage comes after: what it names, or what stands before it.
    fn before(&self, stage: &Stage, flow: &Flow) -> Flow {
        let Some(named) = &stage.needs else {
            return flow.clone();
        };
        let needs: BTreeSet<String> = named.iter().map(|need| need.value.clone()).collect();
        let candidates = match named.as_slice() {
            [] => Vec::new(),
            [one] => match self.flows.get(&one.value) {
                Some(flow) => flow.candidates.clone(),
                // Further down in the file: its type is not known yet.
                None => vec![Candidate {
                    id: one.value.clone(),
                    output: Type::Any,
                    may_skip: false,
                }],
            },
            // See `feed`.
            _ => Vec::new(),
        };
        Flow { needs, candidates }
    }

    /// The input of a stage that says nothing of it.
    pub(super) fn feed(&self, stage: &Stage, before: &Flow) -> Feed {
        match &stage.needs {
            Some(needs) if needs.len() > 1 => Feed {
                template: Some(object_of(before.needs.iter().map(String::as_str))),
                types: vec![("needs".to_owned(), Type::Object)],
                single: None,
            },
            _ => before.feed(),
        }
    }

    fn push(&mut self, stage: &Stage, id: &str, needs: BTreeSet<String>, made: Made) {
        let mut whens = self.guards.clone();
        whens.extend(stage.when.clone());
        let mut mentions = made.mentions;
        for when in &whens {
            mentions.extend(self.condition(when));
        }
        self.drafts.push(Draft {
            id: id.to_owned(),
            span: stage.span,
            area: self.area,
            named_needs: stage.needs.clone().unwrap_or_default(),
            needs,
            whens,
            allow_failure: stage.allow_failure,
            mentions,
            output: made.output,
            fields: made.fields,
            steps: made.steps,
            auto: made.auto,
            work: made.work,
        });
    }

    fn condition(&mut self, when: &Spot<String>) -> Vec<Mention> {
        let mut reader = Reader::new(self.findings, ItemRule::Outside, self.area);
        reader.condition(&when.value, when.span);
        let found = reader.found;
        let constant = found.mentions.is_empty() && found.inputs.is_empty();
        if constant
            && matches!(
                template::condition(&when.value, &Value::Object(serde_json::Map::new())),
                Ok(false)
            )
        {
            self.findings.error(
                "never-runs",
                when.span,
                "this stage can never run: its condition is always false",
                "remove the stage, or let the condition look at an input".to_owned(),
            );
        }
        self.known_inputs(found.inputs);
        found.mentions
    }

    fn parallel(&mut self, stage: &Stage, id: &str, branches: &[Branch], before: &Flow) -> Flow {
        self.guards.extend(stage.when.clone());
        let mut outputs = BTreeMap::new();
        let mut needs = BTreeSet::new();
        let mut names = Vec::new();
        let mut mentions = Vec::new();
        for branch in branches {
            let name = &branch.name.value;
            names.push(name.clone());
            let first = self.drafts.len();
            let mut flow = before.clone();
            let mut last = None;
            for inner in &branch.stages {
                let fallback = branch.single.then_some(name.as_str());
                last = Some(self.stage(inner, fallback, &mut flow));
            }
            let Some(last) = last else { continue };
            let nodes = &self.drafts[first..];
            let inside = |id: &String| nodes.iter().any(|node| node.id == *id);
            needs.extend(
                nodes
                    .iter()
                    .filter(|node| !nodes.iter().any(|other| other.needs.contains(&node.id)))
                    .map(|node| node.id.clone()),
            );
            // A branch that was skipped gives null, not what was before the branches.
            flow.candidates.retain(|one| inside(&one.id));
            let output = match flow.feed().template {
                Some(template) => template,
                None => format!("{{{{ {last} }}}}"),
            };
            mentions.extend(
                template::roots(&output)
                    .unwrap_or_default()
                    .into_iter()
                    .map(|root| Mention {
                        path: root,
                        span: branch.name.span,
                        in_when: false,
                    }),
            );
            outputs.insert(name.clone(), output);
        }
        let join = Made {
            work: plan::Work::Join(plan::Join { outputs }),
            output: Type::Object,
            fields: Some(names),
            mentions,
            steps: Vec::new(),
            auto: None,
        };
        if stage.when.is_some() {
            self.guards.pop();
        }
        self.push(stage, id, needs, join);
        let mut after = before.clone();
        after.candidates.insert(
            0,
            Candidate {
                id: id.to_owned(),
                output: Type::Object,
                may_skip: stage.when.is_some(),
            },
        );
        after.needs = BTreeSet::from([id.to_owned()]);
        self.flows.insert(id.to_owned(), after.clone());
        after
    }

    /// The stages that a value's templates name.
    pub(super) fn read_tree(&mut self, tree: &Tree, item: ItemRule) -> Vec<Mention> {
        let mut reader = Reader::new(self.findings, item, self.area);
        reader.tree(tree);
        let found = reader.found;
        self.known_inputs(found.inputs);
        found.mentions
    }

    pub(super) fn read_text(&mut self, text: &Spot<String>, item: ItemRule) -> Vec<Mention> {
        let mut reader = Reader::new(self.findings, item, self.area);
        reader.text(&text.value, text.span);
        let found = reader.found;
        self.known_inputs(found.inputs);
        found.mentions
    }

    fn known_inputs(&mut self, named: Vec<(String, Span)>) {
        for (name, span) in named {
            if name.is_empty() {
                // All of them.
                let all = self
                    .spec
                    .inputs
                    .iter()
                    .map(|input| input.name.value.clone());
                self.used_inputs.extend(all);
                continue;
            }
            let known = self
                .spec
                .inputs
                .iter()
                .map(|input| input.name.value.as_str());
            if known.clone().any(|known| known == name) {
                self.used_inputs.insert(name);
                continue;
            }
            let help = if self.spec.inputs.is_empty() {
                format!(
                    "the pipeline has no inputs: add `inputs: {{ {name}: {{ type: string }} }}`"
                )
            } else {
                crate::suggest::among(&name, known, "inputs")
            };
            self.findings.error(
                "unknown-input",
                span,
                format!("the pipeline has no input `{name}`"),
                help,
            );
        }
    }

    pub(super) fn unused_inputs(&mut self) {
        for input in &self.spec.inputs {
            let name = &input.name.value;
            if !self.used_inputs.contains(name) {
                self.findings.warning(
                    "unused-input",
                    input.name.span,
                    format!("the input `{name}` is used nowhere"),
                    format!("use it as `{{{{ inputs.{name} }}}}`, or remove it"),
                );
            }
        }
    }

    pub(super) fn outputs(&mut self, outputs: &Tree) {
        self.area = Area::Main;
        self.outputs_mention = self.read_tree(outputs, ItemRule::Outside);
    }

    /// The plan's output is a stage's.
    pub(super) fn output_of(&mut self, id: &str) {
        self.outputs_mention = vec![Mention {
            path: id.to_owned(),
            span: Span::default(),
            in_when: false,
        }];
    }

    /// The type of what a template gives, as far as it can be known.
    pub(super) fn type_of(&self, text: &str) -> Type {
        let Some(expression) = template::whole_expression(text) else {
            return Type::String;
        };
        let mut parts = expression.trim().split('.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("inputs"), Some(name), None) => self
                .inputs
                .pointer(&format!("/properties/{name}"))
                .map_or(Type::Any, inputs::type_of),
            (Some(id), None, None) if ids::is_name(id) => self
                .drafts
                .iter()
                .find(|draft| draft.id == id)
                .map_or(Type::Any, |draft| draft.output.clone()),
            _ => Type::Any,
        }
    }
}

impl Made {
    pub(super) fn nothing() -> Self {
        Self {
            work: plan::Work::Join(plan::Join {
                outputs: BTreeMap::new(),
            }),
            output: Type::Any,
            fields: None,
            mentions: Vec::new(),
            steps: Vec::new(),
            auto: None,
        }
    }
}
