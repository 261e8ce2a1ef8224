//! Which files of a path are to be loaded, in a stable order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};
use walkdir::WalkDir;

/// A file to load, or one that cannot be.
pub(crate) enum Found {
    File { path: PathBuf, uri: String },
    Failed { uri: String, why: String },
}

/// Which files of a folder are taken.
#[derive(Debug)]
pub(crate) struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Selection {
    /// # Errors
    /// Names the parameter and the pattern that is wrong.
    pub(crate) fn new(
        include: &[String],
        exclude: &[String],
    ) -> Result<Self, (&'static str, String)> {
        Ok(Self {
            include: match include {
                [] => None,
                globs => Some(set(globs).map_err(|e| ("include", e))?),
            },
            exclude: set(exclude).map_err(|e| ("exclude", e))?,
        })
    }

    /// `relative` has `/` between its parts.
    fn takes(&self, relative: &str) -> bool {
        self.include
            .as_ref()
            .is_none_or(|include| include.is_match(relative))
            && !self.exclude.is_match(relative)
    }
}

fn set(globs: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(pattern(glob)?);
        // `*.md` means Markdown files anywhere, as in .gitignore.
        if !glob.contains('/') {
            set.add(pattern(&format!("**/{glob}"))?);
        }
    }
    set.build().map_err(|e| e.to_string())
}

fn pattern(glob: &str) -> Result<Glob, String> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .build()
        .map_err(|e| format!("`{glob}` is no valid pattern: {}", e.kind()))
}

/// What was passed over, by reason.
#[derive(Debug, Default)]
pub(crate) struct Skipped(BTreeMap<String, u64>);

impl Skipped {
    pub(crate) fn add(&mut self, reason: impl Into<String>) {
        *self.0.entry(reason.into()).or_default() += 1;
    }

    pub(crate) fn merge(&mut self, other: Skipped) {
        for (reason, count) in other.0 {
            *self.0.entry(reason).or_default() += count;
        }
    }

    /// Such as `skipped 3: 2 binary (png), 1 empty`; `None` if nothing was.
    pub(crate) fn summary(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(reason, n)| format!("{n} {reason}"))
            .collect();
        let all: u64 = self.0.values().sum();
        Some(format!("skipped {all}: {}", parts.join(", ")))
    }
}

/// Walks a file, a folder or a glob and gives what it finds to `each`, which says whether to go
/// on. Hidden files and symbolic links inside folders are passed over; what `path` itself names is
/// taken as it is. With `prefix`, uris begin with the path, so that those of several paths differ.
///
/// # Errors
/// Says why nothing can be found there.
pub(crate) fn find(
    path: &str,
    prefix: bool,
    selection: &Selection,
    skipped: &mut Skipped,
    each: &mut dyn FnMut(Found) -> bool,
) -> Result<(), String> {
    let exact = Path::new(path);
    let (root, glob) = match std::fs::metadata(exact) {
        Ok(metadata) if metadata.is_dir() => (exact.to_owned(), None),
        Ok(_) => {
            let name = if prefix {
                path.to_owned()
            } else {
                exact
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            each(Found::File {
                path: exact.to_owned(),
                uri: name,
            });
            return Ok(());
        }
        Err(_) if path.contains(['*', '?', '[', '{']) => {
            let (root, rest) = split_glob(path);
            let matcher = pattern(&rest)?.compile_matcher();
            if !root.is_dir() {
                return Err(format!("there is no folder {}", absolute(&root)));
            }
            (root, Some(matcher))
        }
        Err(e) => return Err(format!("cannot read {}: {e}", absolute(exact))),
    };
    let walk = WalkDir::new(&root)
        .follow_links(false)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    for entry in walk {
        let found = match entry {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => {
                let relative = relative(entry.path(), &root);
                if glob.as_ref().is_some_and(|glob| !glob.is_match(&relative))
                    || !selection.takes(&relative)
                {
                    continue;
                }
                if !entry.file_type().is_file() {
                    skipped.add(if entry.path_is_symlink() {
                        "symbolic link"
                    } else {
                        "special file"
                    });
                    continue;
                }
                Found::File {
                    uri: named(path, prefix, &relative),
                    path: entry.into_path(),
                }
            }
            Err(e) => {
                let relative = e.path().map(|p| relative(p, &root)).unwrap_or_default();
                Found::Failed {
                    uri: named(path, prefix, &relative),
                    why: match e.io_error() {
                        Some(io) => format!("cannot be read: {io}"),
                        None => format!("cannot be read: {e}"),
                    },
                }
            }
        };
        if !each(found) {
            return Ok(());
        }
    }
    Ok(())
}

fn named(path: &str, prefix: bool, relative: &str) -> String {
    match (prefix, relative) {
        (true, relative) => format!("{}/{relative}", path.trim_end_matches('/')),
        (false, "") => path.to_owned(),
        (false, relative) => relative.to_owned(),
    }
}

/// With `/` between its parts on every system, so that ids do not depend on it.
fn relative(path: &Path, root: &Path) -> String {
    let parts: Vec<_> = path
        .strip_prefix(root)
        .unwrap_or(path)
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

/// The folder before the first part with a wildcard, and the rest.
fn split_glob(glob: &str) -> (PathBuf, String) {
    let wild = glob.find(['*', '?', '[', '{']).unwrap_or(glob.len());
    match glob[..wild].rfind('/') {
        Some(0) => ("/".into(), glob[1..].to_owned()),
        Some(at) => (glob[..at].into(), glob[at + 1..].to_owned()),
        None => (".".into(), glob.to_owned()),
    }
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "b.md",
            "a.txt",
            "sub/c.md",
            "sub/deep/d.html",
            ".git/x.md",
            ".hidden.md",
        ] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        folder
    }

    fn found(
        path: &str,
        prefix: bool,
        include: &[&str],
        exclude: &[&str],
    ) -> (Vec<String>, Skipped) {
        let own = |globs: &[&str]| globs.iter().map(|&g| g.to_owned()).collect::<Vec<_>>();
        let selection = Selection::new(&own(include), &own(exclude)).unwrap();
        let (mut uris, mut skipped) = (Vec::new(), Skipped::default());
        find(path, prefix, &selection, &mut skipped, &mut |found| {
            uris.push(match found {
                Found::File { uri, .. } => uri,
                Found::Failed { uri, why } => format!("{uri}: {why}"),
            });
            true
        })
        .unwrap();
        (uris, skipped)
    }

    #[test]
    fn files_come_in_order_by_relative_path() {
        let folder = tree();
        let root = folder.path().to_str().unwrap();
        type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);
        let cases: [Case; 7] = [
            (
                "",
                &[],
                &[],
                &["a.txt", "b.md", "sub/c.md", "sub/deep/d.html"],
            ),
            ("", &["*.md"], &[], &["b.md", "sub/c.md"]),
            ("", &["sub/**"], &["*.html"], &["sub/c.md"]),
            ("", &[], &["sub/**"], &["a.txt", "b.md"]),
            (
                "/**/*.{md,html}",
                &[],
                &[],
                &["b.md", "sub/c.md", "sub/deep/d.html"],
            ),
            ("/*.md", &[], &[], &["b.md"]),
            ("/.hidden.md", &[], &[], &[".hidden.md"]),
        ];
        for (path, include, exclude, expected) in cases {
            let (uris, _) = found(&format!("{root}{path}"), false, include, exclude);
            assert_eq!(uris, expected, "{path} {include:?} {exclude:?}");
        }
        let (uris, _) = found(&format!("{root}/sub"), true, &[], &["deep/**"]);
        assert_eq!(uris, [format!("{root}/sub/c.md")]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed_out_of_the_folder() {
        let outside = tree();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("out")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("b.md"), folder.path().join("b.md"))
            .unwrap();
        let (uris, skipped) = found(folder.path().to_str().unwrap(), false, &[], &[]);
        assert!(uris.is_empty(), "{uris:?}");
        assert_eq!(
            skipped.summary().as_deref(),
            Some("skipped 2: 2 symbolic link")
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        let selection = Selection::new(&[], &[]).unwrap();
        let find = |path| {
            find(
                path,
                false,
                &selection,
                &mut Skipped::default(),
                &mut |_| true,
            )
        };
        let error = find("no/such/folder").unwrap_err();
        assert!(error.contains("/no/such/folder"), "{error}");
        let error = find("no/such/*.md").unwrap_err();
        assert!(error.contains("/no/such"), "{error}");
        let (field, why) = Selection::new(&["a[".into()], &[]).unwrap_err();
        assert_eq!(field, "include");
        assert!(why.starts_with("`a[` is no valid pattern"), "{why}");
    }
}
