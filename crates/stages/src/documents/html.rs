//! HTML to Markdown: the article of a page, or the whole page when no article stands out.

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

/// An article with a smaller share of the page's text than this is a wrong guess.
const ARTICLE_SHARE_MIN: f64 = 0.25;

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
    if let Ok(mut readability) = Readability::new(html, None, None) {
        page.title = given(readability.get_article_title().to_string());
        if let Ok(article) = readability.parse() {
            page.title = given(article.title);
            page.author = article.byline.and_then(given);
            page.language = article.lang.and_then(given);
            page.published = article.published_time.and_then(given);
            if mode == HtmlMode::Article {
                let main = converter.convert(&article.content).map_err(unreadable)?;
                if main.len() as f64 >= whole.len() as f64 * ARTICLE_SHARE_MIN {
                    page.markdown = with_heading(&whole, &main, page.title.as_deref());
                }
            }
        }
    }
    if page.markdown.trim().is_empty() {
        page.markdown = whole;
    }
    page.markdown = page.markdown.trim().to_owned();
    Ok(page)
}

/// The article, with the page's own heading if that was dropped as a repetition of the title.
fn with_heading(whole: &str, main: &str, title: Option<&str>) -> String {
    let main = main.trim();
    let heading = whole.lines().find(|line| line.starts_with("# "));
    match (heading, title) {
        (Some(heading), Some(title))
            if title.contains(heading[2..].trim()) && !main.contains(heading) =>
        {
            format!("{heading}\n\n{main}")
        }
        _ => main.to_owned(),
    }
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
