//! What stages with `uses` become, alone and in a `map`.

use serde_json::{Map, Value};

use crate::diagnostic::Span;
use crate::plan::{self, Cache, FanOut, Step};
use crate::spec::{self, Fan, Stage, Uses, Work};
use crate::stage::{Kind, PYTHON_CALL, StageType, Type};
use crate::suggest;

use super::draft::{Auto, Feed, Flow, Mention};
use super::expression::ItemRule;
use super::lower::{Lowering, Made};
use super::params::{self, Codes};
use super::policy::{retry, timeouts};

/// How long a cached result is good unless the author says otherwise.
const CACHE_TTL_MS: u64 = 30 * 24 * 60 * 60 * 1_000;
/// Chunks in progress at a time unless the author says otherwise.
const WINDOW: u32 = 8;

const WITH: Codes = Codes {
    unknown: "unknown-parameter",
    missing: "missing-parameter",
    wrong: "wrong-parameter",
};

impl Lowering<'_> {
    pub(super) fn uses(
        &mut self,
        id: &str,
        stage: &Stage,
        uses: &Uses,
        before: &Flow,
    ) -> Option<Made> {
        // Parameters of a stage type that does not exist are read for the names in them.
        let Some(kind) = self.stage_type(uses) else {
            let mut made = Made::nothing();
            self.mentions(uses, ItemRule::Outside, &mut made.mentions);
            return Some(made);
        };
        let mut made = Made::nothing();
        let rule = match kind.kind {
            Kind::Items => ItemRule::ManyAtOnce,
            Kind::Call | Kind::Source => ItemRule::Outside,
        };
        self.mentions(uses, rule, &mut made.mentions);
        let feed = match &uses.input {
            Some(input) => {
                let mentions = self.read_text(input, ItemRule::Outside);
                made.mentions.extend(mentions);
                Feed {
                    template: Some(input.value.clone()),
                    types: vec![("input".to_owned(), self.type_of(&input.value))],
                    single: None,
                }
            }
            None => self.feed(stage, before),
        };
        let mut step = self.step(id, uses, &kind);
        match kind.kind {
            Kind::Items => {
                let over = self.collection(uses, &kind, &feed);
                made.auto = Some(Auto {
                    over: feed.single,
                    fan: uses.fan.clone(),
                });
                made.output = Type::collection(item_of(&kind.output));
                made.work = plan::Work::FanOut(fan_out(
                    over.unwrap_or_default(),
                    &item_of(&kind.output),
                    &uses.fan,
                    vec![step],
                ));
            }
            Kind::Source | Kind::Call => {
                self.no_fan(&uses.fan, &kind);
                let takes = kind.kind == Kind::Call || kind.input != Type::Any;
                if takes || uses.input.is_some() {
                    self.fits(uses, &kind, &feed);
                    step.input = feed.template;
                }
                made.output = match kind.kind {
                    Kind::Source => Type::collection(item_of(&kind.output)),
                    _ => kind.output.clone(),
                };
                made.work = plan::Work::Task(step);
            }
        }
        Some(made)
    }

    fn stage_type(&mut self, uses: &Uses) -> Option<StageType> {
        let name = &uses.uses.value;
        if let Some(kind) = self.shared.catalog.get(name) {
            return Some(kind.clone());
        }
        let catalog = &self.shared.catalog;
        let family = name.split('.').next().unwrap_or_default();
        let near = suggest::nearest(name, catalog.keys().map(String::as_str));
        let relatives: Vec<&str> = catalog
            .keys()
            .filter(|known| known.split('.').next() == Some(family))
            .map(String::as_str)
            .collect();
        let mut help = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if relatives.is_empty() => {
                let mut families: Vec<&str> = catalog
                    .keys()
                    .filter_map(|known| known.split('.').next())
                    .collect();
                families.dedup();
                format!("families: {}", families.join(", "))
            }
            None => String::new(),
        };
        if relatives.iter().any(|name| near != Some(name)) {
            if !help.is_empty() {
                help.push(' ');
            }
            help.push_str(&format!("`{family}` has {}", relatives.join(", ")));
        }
        self.findings.error(
            "unknown-stage-type",
            uses.uses.span,
            format!("there is no stage type `{name}`"),
            help,
        );
        None
    }

    fn mentions(&mut self, uses: &Uses, rule: ItemRule, mentions: &mut Vec<Mention>) {
        if let Some(with) = &uses.with {
            mentions.extend(self.read_tree(with, rule));
        }
        if let Some(key) = uses.cache.as_ref().and_then(|cache| cache.key.as_ref()) {
            mentions.extend(self.read_text(key, rule));
        }
    }

    /// Checks the parameters and the policies of a stage. Its input is left out.
    fn step(&mut self, id: &str, uses: &Uses, kind: &StageType) -> Step {
        let mut with = match &uses.with {
            Some(tree) => tree.to_json(),
            None => Value::Object(Map::new()),
        };
        params::validate(
            self.findings,
            &kind.with,
            &with,
            uses.with.as_ref(),
            uses.uses.span,
            &kind.name,
            &WITH,
        );
        let mut activity = kind.name.clone();
        if kind.name == PYTHON_CALL
            && let Some(Value::String(function)) = with
                .as_object_mut()
                .and_then(|with| with.remove("function"))
        {
            if crate::template::is_template(&function) {
                self.findings.error(
                    "wrong-parameter",
                    uses.uses.span,
                    "`function` of python.call must be a name, not a template",
                    "which function is called must be known before the run".to_owned(),
                );
            }
            activity = function;
        }
        if let Some(cache) = uses.cache.as_ref().filter(|_| !kind.pure) {
            self.findings.error(
                "cache-not-pure",
                cache.span,
                format!(
                    "{} cannot be cached: equal input need not give equal output",
                    kind.name
                ),
                "remove `cache`; completed stages of a run are kept without it".to_owned(),
            );
        }
        let defaults = &self.spec.defaults;
        let resource = match (&uses.policy.resource, &defaults.resource) {
            (Some(own), _) => own.value.clone(),
            // Python functions are where Python workers are.
            (None, Some(general)) if kind.name != PYTHON_CALL => general.value.clone(),
            _ => kind.resource.clone(),
        };
        let demands = self.demands(uses, kind, &resource);
        let affinity = self.affinity(uses, kind, &resource, &with);
        Step {
            id: id.to_owned(),
            uses: activity,
            resource,
            input: None,
            with,
            retry: retry(&uses.policy, defaults),
            timeouts: timeouts(&uses.policy, defaults),
            cache: uses.cache.as_ref().map(|cache| Cache {
                ttl_ms: cache.ttl_ms.unwrap_or(CACHE_TTL_MS),
                key: cache.key.as_ref().map(|key| key.value.clone()),
            }),
            demands,
            affinity,
        }
    }

    /// The collection that a stage over items runs over.
    fn collection(&mut self, uses: &Uses, kind: &StageType, feed: &Feed) -> Option<String> {
        let wanted = item_of(&kind.input);
        if feed.template.is_none() {
            self.no_input(uses, kind);
        }
        for (from, found) in &feed.types {
            match found {
                Type::Any => {}
                Type::Collection(item) | Type::List(item) => {
                    if !wanted.accepts(item) {
                        let found = Type::collection((**item).clone());
                        let wanted = Type::collection(wanted.clone());
                        self.mismatch(uses.uses.span, &kind.name, &wanted, from, &found);
                    }
                }
                other => {
                    self.findings.error(
                        "not-a-collection",
                        uses.uses.span,
                        format!(
                            "{} works on the items of a collection, but `{from}` gives {}",
                            kind.name,
                            article(other)
                        ),
                        format!("it takes {}", self.producers(&wanted)),
                    );
                }
            }
        }
        feed.template.clone()
    }

    /// Checks the type of the input of a stage that is called once.
    fn fits(&mut self, uses: &Uses, kind: &StageType, feed: &Feed) {
        if kind.input != Type::Any && feed.template.is_none() {
            self.no_input(uses, kind);
        }
        for (from, found) in &feed.types {
            if kind.input.accepts(found) {
                continue;
            }
            if matches!(found, Type::Collection(item) if kind.input.accepts(item)) {
                self.findings.error(
                    "type-mismatch",
                    uses.uses.span,
                    format!(
                        "{} takes one {}, but `{from}` gives a {found}",
                        kind.name, kind.input
                    ),
                    "to run it for each item, put it into a `map:`".to_owned(),
                );
            } else {
                self.mismatch(uses.uses.span, &kind.name, &kind.input, from, found);
            }
        }
    }

    fn no_input(&mut self, uses: &Uses, kind: &StageType) {
        self.findings.error(
            "no-input",
            uses.uses.span,
            format!(
                "{} takes {}, but nothing comes before it",
                kind.name,
                article(&kind.input)
            ),
            format!("it takes {}", self.producers(&item_of(&kind.input))),
        );
    }

    fn mismatch(&mut self, span: Span, name: &str, wanted: &Type, from: &str, found: &Type) {
        let help = format!("it takes {}", self.producers(&item_of(wanted)));
        self.findings.error(
            "type-mismatch",
            span,
            format!(
                "{name} takes {}, but `{from}` gives {}",
                article(wanted),
                article(found)
            ),
            help,
        );
    }

    /// What makes a type, for help texts.
    fn producers(&self, item: &Type) -> String {
        let makers: Vec<&str> = self
            .shared
            .catalog
            .values()
            .filter(|kind| item_of(&kind.output) == *item && *item != Type::Any)
            .map(|kind| kind.name.as_str())
            .collect();
        match makers.as_slice() {
            [] => format!("{item}s from a stage before it"),
            makers => format!("{item}s, as from {}", makers.join(", ")),
        }
    }

    fn no_fan(&mut self, fan: &Fan, kind: &StageType) {
        let keys = [
            ("chunk", fan.chunk.as_ref().map(|value| value.span)),
            ("window", fan.window.as_ref().map(|value| value.span)),
            ("tolerate", fan.tolerate.as_ref().map(|value| value.span)),
        ];
        for (key, span) in keys {
            if let Some(span) = span {
                self.findings.error(
                    "no-fan-out",
                    span,
                    format!(
                        "`{key}` has no meaning for {}: it is called once",
                        kind.name
                    ),
                    "it belongs to stages over the items of a collection, and to `map:`".to_owned(),
                );
            }
        }
    }

    pub(super) fn map(
        &mut self,
        id: &str,
        stage: &Stage,
        map: &spec::Map,
        before: &Flow,
    ) -> Option<Made> {
        let mut made = Made::nothing();
        let feed = match &map.over {
            Some(over) => {
                let mentions = self.read_text(over, ItemRule::Outside);
                made.mentions.extend(mentions);
                Feed {
                    template: Some(over.value.clone()),
                    types: vec![(over.value.trim().to_owned(), self.type_of(&over.value))],
                    single: None,
                }
            }
            None => self.feed(stage, before),
        };
        let over_span = map.over.as_ref().map_or(stage.span, |over| over.span);
        if feed.template.is_none() {
            self.findings.error(
                "no-input",
                over_span,
                "`map` has nothing to run over",
                "say `over: \"{{ … }}\"`".to_owned(),
            );
        }
        let mut item = Type::Any;
        for (from, found) in &feed.types {
            match found {
                Type::Any => {}
                Type::Collection(inner) | Type::List(inner) => item = (**inner).clone(),
                other => self.findings.error(
                    "map-not-a-collection",
                    over_span,
                    format!(
                        "`map` runs over a collection or a list, but `{from}` is {}",
                        article(other)
                    ),
                    "name a stage that gives a collection, or an input of type array".to_owned(),
                ),
            }
        }
        let mut steps = Vec::new();
        for inner in &map.stages {
            if let Some(step) = self.map_step(inner, &mut item, &mut made) {
                made.steps.push(step.id.clone());
                steps.push(step);
            }
        }
        made.steps.retain(|step| step != id);
        made.work = plan::Work::FanOut(fan_out(
            feed.template.unwrap_or_default(),
            &item,
            &map.fan,
            steps,
        ));
        made.output = Type::collection(item);
        Some(made)
    }

    /// A stage within a `map`. `item` is the type of what comes to it, then of what it gives.
    fn map_step(&mut self, stage: &Stage, item: &mut Type, made: &mut Made) -> Option<Step> {
        let Work::Uses(uses) = &stage.work else {
            if !matches!(stage.work, Work::Unclear) {
                self.not_in_map(stage.span, "only stages with `uses` can stand in a `map`");
            }
            return None;
        };
        let id = self.ids.claim(stage, None, self.findings);
        for (span, key) in [
            (stage.when.as_ref().map(|when| when.span), "when"),
            (
                stage
                    .needs
                    .as_ref()
                    .and_then(|needs| Some(needs.first()?.span)),
                "needs",
            ),
            (uses.input.as_ref().map(|input| input.span), "input"),
            (stage.allow_failure.then_some(stage.span), "allow_failure"),
            (uses.fan.chunk.as_ref().map(|value| value.span), "chunk"),
            (uses.fan.window.as_ref().map(|value| value.span), "window"),
            (
                uses.fan.tolerate.as_ref().map(|value| value.span),
                "tolerate",
            ),
        ] {
            if let Some(span) = span {
                let message = format!("`{key}` does not go with a stage in a `map`");
                self.not_in_map(span, &message);
            }
        }
        let Some(kind) = self.stage_type(uses) else {
            *item = Type::Any;
            self.mentions(uses, ItemRule::Allowed, &mut made.mentions);
            return None;
        };
        let rule = match kind.kind {
            Kind::Items => ItemRule::ManyAtOnce,
            Kind::Call | Kind::Source => ItemRule::Allowed,
        };
        self.mentions(uses, rule, &mut made.mentions);
        let wanted = match kind.kind {
            Kind::Items => item_of(&kind.input),
            Kind::Call => kind.input.clone(),
            Kind::Source => {
                let message = format!(
                    "{} makes a collection; it cannot stand in a `map`",
                    kind.name
                );
                self.not_in_map(uses.uses.span, &message);
                return None;
            }
        };
        if !wanted.accepts(item) {
            let found = item.clone();
            self.mismatch(uses.uses.span, &kind.name, &wanted, "item", &found);
        }
        *item = match kind.kind {
            Kind::Items => item_of(&kind.output),
            _ => kind.output.clone(),
        };
        Some(self.step(&id, uses, &kind))
    }

    fn not_in_map(&mut self, span: Span, message: &str) {
        self.findings.error(
            "not-in-map",
            span,
            message,
            "the steps of a `map` follow each other for each item: put all else before or after it"
                .to_owned(),
        );
    }
}

fn fan_out(over: String, item: &Type, fan: &Fan, steps: Vec<Step>) -> FanOut {
    FanOut {
        over,
        item: item.to_string(),
        chunk: fan.chunk.as_ref().map_or(0, |chunk| chunk.value),
        window: fan.window.as_ref().map_or(WINDOW, |window| window.value),
        tolerate: fan.tolerate.as_ref().map_or(0.0, |share| share.value),
        steps,
    }
}

/// The type of one item, for types of collections and of items alike.
fn item_of(wanted: &Type) -> Type {
    match wanted {
        Type::Collection(item) | Type::List(item) => (**item).clone(),
        other => other.clone(),
    }
}

pub(super) fn article(found: &Type) -> String {
    let name = found.to_string();
    match found {
        Type::Any => "something".to_owned(),
        _ if name.starts_with(['a', 'e', 'i', 'o', 'u']) => format!("an {name}"),
        _ => format!("a {name}"),
    }
}
