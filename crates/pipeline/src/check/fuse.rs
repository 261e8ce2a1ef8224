//! Stages over items in a row to one fan-out, in which chunks pass from step to step without waiting
//! for each other.

use std::collections::BTreeMap;

use crate::plan::Work;
use crate::spec::Spot;

use super::draft::{Auto, Draft, Mention};

pub(super) fn fuse(mut drafts: Vec<Draft>, outputs: &[Mention]) -> Vec<Draft> {
    while let Some((first, second)) = pair(&drafts, outputs) {
        let before = drafts.remove(first);
        // What comes after in the file has a higher index.
        let after = &mut drafts[if second > first { second - 1 } else { second }];
        join(before, after);
    }
    drafts
}

/// Two nodes that can be one, by index.
fn pair(drafts: &[Draft], outputs: &[Mention]) -> Option<(usize, usize)> {
    let index: BTreeMap<&str, usize> = drafts
        .iter()
        .enumerate()
        .map(|(at, draft)| (draft.id.as_str(), at))
        .collect();
    drafts.iter().enumerate().find_map(|(second, after)| {
        let over = after.auto.as_ref()?.over.as_ref()?;
        let first = *index.get(over.as_str())?;
        let before = &drafts[first];
        let free = |draft: &Draft| draft.whens.is_empty() && !draft.allow_failure;
        let agree = agrees(before.auto.as_ref()?, after.auto.as_ref()?);
        let used = |mention: &Mention| crate::template::root_of(&mention.path) == before.id;
        let used_elsewhere = outputs.iter().any(used)
            || drafts.iter().any(|draft| draft.mentions.iter().any(used))
            || drafts
                .iter()
                .any(|draft| draft.id != after.id && draft.needs.contains(&before.id));
        let fits = before.area == after.area
            && free(before)
            && free(after)
            && agree
            && after.needs.contains(&before.id)
            && !used_elsewhere;
        fits.then_some((first, second))
    })
}

fn agrees(a: &Auto, b: &Auto) -> bool {
    fn same<T: PartialEq>(a: &Option<Spot<T>>, b: &Option<Spot<T>>) -> bool {
        match (a, b) {
            (Some(a), Some(b)) => a.value == b.value,
            _ => true,
        }
    }
    same(&a.fan.chunk, &b.fan.chunk)
        && same(&a.fan.window, &b.fan.window)
        && same(&a.fan.tolerate, &b.fan.tolerate)
}

fn join(before: Draft, after: &mut Draft) {
    after.needs.remove(&before.id);
    after.needs.extend(before.needs);
    after.mentions.extend(before.mentions);
    let (Work::FanOut(first), Work::FanOut(second)) = (before.work, &mut after.work) else {
        return;
    };
    second.over = first.over;
    second.steps.splice(0..0, first.steps);
    let (Some(earlier), Some(later)) = (before.auto, &mut after.auto) else {
        return;
    };
    later.over = earlier.over;
    // A value given at either stage holds for both.
    if later.fan.chunk.is_none() && earlier.fan.chunk.is_some() {
        later.fan.chunk = earlier.fan.chunk;
        second.chunk = first.chunk;
    }
    if later.fan.window.is_none() && earlier.fan.window.is_some() {
        later.fan.window = earlier.fan.window;
        second.window = first.window;
    }
    if later.fan.tolerate.is_none() && earlier.fan.tolerate.is_some() {
        later.fan.tolerate = earlier.fan.tolerate;
        second.tolerate = first.tolerate;
    }
}
