//! HTML to Markdown: what a page marks as its main part, or the whole page without what it marks as
//! furniture. What is not marked is not guessed at: a guess that goes wrong loses text.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dom_smoothie::Readability;
use htmd::options::{BulletListMarker, Options};
use htmd::{HtmlToMarkdown, Node};
use schemars::JsonSchema;
use serde::Deserialize;

/// Elements that are no text of a page.
const SKIPPED: [&str; 10] = [
    "script", "style", "noscript", "template", "svg", "iframe", "head", "nav", "form", "button",
];

/// What pages mark as not their subject.
const FURNITURE: &str = "nav, aside, body > header, body > footer, [role=navigation], [role=banner], \
     [role=contentinfo], [role=search], [aria-hidden=true], .navheader, .navfooter";

/// What pages mark as their subject, the surest mark first.
const MAIN: [&str; 3] = ["main", "[role=main]", "article"];

/// A main part with a smaller share of the page's text than this is marked wrongly.
const MAIN_SHARE_MIN: f64 = 0.25;

/// Elements within elements: what walks them recurses. Browsers stop here as well.
const DEPTH_MAX: usize = 512;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HtmlMode {
    /// The main text without navigation, and the whole page where no main text is found.
    #[default]
    Article,
    /// Everything on the page.
    Page,
}

#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) markdown: String,
    pub(crate) title: Option<String>,
    pub(crate) author: Option<String>,
    pub(crate) language: Option<String>,
    pub(crate) published: Option<String>,
}

/// Reads a page. A page that a parser cannot take is an error, never a panic.
pub(crate) fn read(html: &str, mode: HtmlMode) -> Result<Page, String> {
    catch_unwind(AssertUnwindSafe(|| convert(html, mode)))
        .unwrap_or_else(|_| Err("the HTML could not be parsed".to_owned()))
}

fn convert(html: &str, mode: HtmlMode) -> Result<Page, String> {
    let converter = HtmlToMarkdown::builder()
        .skip_tags(SKIPPED.to_vec())
        .options(Options {
            bullet_list_marker: BulletListMarker::Dash,
            ul_bullet_spacing: 1,
            ol_number_spacing: 1,
            ..Options::default()
        })
        .build();
    let unreadable = |e| format!("the HTML could not be read: {e}");
    let tree = converter.html_to_tree(html).map_err(unreadable)?;
    if depth(&tree) > DEPTH_MAX {
        return Err(format!("the HTML is nested more than {DEPTH_MAX} deep"));
    }
    let whole = converter.tree_to_markdown(&tree);
    let mut page = Page::default();
    if let Ok(readability) = Readability::new(html, None, None) {
        let about = readability.get_article_metadata(readability.parse_json_ld());
        page.title = given(about.title).or_else(|| given(readability.get_article_title().into()));
        page.author = about.byline.and_then(given);
        page.language = about.lang.and_then(given);
        page.published = about.published_time.and_then(given);
        if mode == HtmlMode::Article {
            let document = &readability.doc;
            document.select(FURNITURE).remove();
            let rest = converter.convert(&document.html()).map_err(unreadable)?;
            page.markdown = MAIN
                .iter()
                .map(|mark| document.select(mark))
                // Several of a kind are a list of articles: the page is their sum.
                .find(|found| found.length() == 1)
                .map(|found| converter.convert(&found.html()))
                .transpose()
                .map_err(unreadable)?
                .filter(|main| main.len() as f64 >= rest.len() as f64 * MAIN_SHARE_MIN)
                .unwrap_or(rest);
        }
    }
    if page.markdown.trim().is_empty() {
        page.markdown = whole;
    }
    page.markdown = page.markdown.trim().to_owned();
    Ok(page)
}

/// How deep elements are nested, without recursion.
fn depth(tree: &Rc<Node>) -> usize {
    let mut deepest = 0;
    let mut open = vec![(tree.clone(), 1)];
    while let Some((node, depth)) = open.pop() {
        deepest = deepest.max(depth);
        open.extend(
            node.children
                .borrow()
                .iter()
                .map(|child| (child.clone(), depth + 1)),
        );
    }
    deepest
}

fn given(text: String) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../tests/fixtures/corpus/tides.html");

    #[test]
    fn the_article_is_kept_and_the_navigation_dropped() {
        let page = read(PAGE, HtmlMode::Article).unwrap();
        assert_eq!(page.title.as_deref(), Some("How a tide mill works"));
        assert!(page.markdown.contains("sluice gate"));
        assert!(!page.markdown.contains("Contact us"), "{}", page.markdown);
    }

    #[test]
    fn a_page_without_an_article_is_taken_whole() {
        let page = read("<html><body><p>Short.</p></body></html>", HtmlMode::Article).unwrap();
        assert_eq!(page.markdown, "Short.");
        let page = read(PAGE, HtmlMode::Page).unwrap();
        assert!(page.markdown.contains("Contact us"), "{}", page.markdown);
    }

    #[test]
    fn what_is_not_marked_is_kept_each_time_the_same() {
        let unmarked = "<html><head><title>T</title></head><body><div class=navheader>Prev Next</div>\
            <div><h1>Sluices</h1><p>One.</p></div><div><p>Two.</p><p>Three.</p></div>\
            <div class=navfooter>Up</div></body></html>";
        for _ in 0..50 {
            let page = read(unmarked, HtmlMode::Article).unwrap();
            assert_eq!(page.markdown, "# Sluices\n\nOne.\n\nTwo.\n\nThree.");
        }
        let several = "<body><article>One.</article><article>Two.</article></body>";
        let page = read(several, HtmlMode::Article).unwrap();
        assert!(page.markdown.contains("One.") && page.markdown.contains("Two."));
    }

    #[test]
    fn rubbish_is_no_panic() {
        for html in ["", "<", "<table><tr", "<b><i></b></i>", "\u{0}\u{1}<!--"] {
            let _ = read(html, HtmlMode::Article);
        }
        let nested = |n| "<div>".repeat(n) + "deep" + &"</div>".repeat(n);
        assert_eq!(
            read(&nested(400), HtmlMode::Article).unwrap().markdown,
            "deep"
        );
        let error = read(&nested(3_000), HtmlMode::Article).unwrap_err();
        assert_eq!(error, "the HTML is nested more than 512 deep");
    }
}
