//! What explains this API, served by itself so that it works with no network: the OpenAPI document, a page to
//! try it out, and one page for each sort of error and of warning.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Method};
use model::lint::{LINTS, Lint};
use model::problem::closest;
use serde_json::Value;

use super::error::{Error, SORTS, Sort, UNKNOWN_ERROR, UNKNOWN_LINT, UNKNOWN_PATH};
use super::openapi;
use super::table::{Operation, operations as all};

const FAMILY: &str = "documentation";
const HTML: &[&str] = &["text/html"];

pub fn operations() -> Vec<Operation> {
    let text = |_: &mut schemars::SchemaGenerator| schemars::json_schema!({ "type": "string" });
    vec![
        Operation::new(Method::GET, "/openapi.json", "getOpenApi", document)
            .about(FAMILY, "This document (OpenAPI 3.1)")
            .answers::<Value>(200, "the document"),
        Operation::new(Method::GET, "/", "getRoot", || async { Redirect::temporary("/docs/") })
            .about(FAMILY, "Leads whoever opens this address in a browser to the page")
            .answers_nothing(307, "the page is at `/docs/`"),
        Operation::new(Method::GET, "/docs", "getDocs", || async { Redirect::permanent("/docs/") })
            .about(FAMILY, "Leads to the page")
            .answers_nothing(308, "the page is at `/docs/`"),
        Operation::new(Method::GET, "/docs/", "getDocsPage", |request: Request| async move {
            asset(request.uri().path().trim_start_matches("/docs/"))
        })
        .about(FAMILY, "A page that shows and tries all operations")
        .answers_with(200, "the page", HTML, text),
        Operation::new(
            Method::GET,
            "/docs/{file}",
            "getDocsFile",
            |Path(file): Path<String>| async move { asset(&file) },
        )
        .about(FAMILY, "A file that the page needs")
        .answers_with(200, "the file", &["*/*"], text)
        .errors(&[&UNKNOWN_PATH]),
        Operation::new(Method::GET, "/docs/errors/{code}", "getErrorPage", |Path(code): Path<String>| async move {
            error_page(&code)
        })
        .about(FAMILY, "Explains the `type` of an error")
        .answers_with(200, "the explanation", HTML, text)
        .errors(&[&UNKNOWN_ERROR]),
        Operation::new(Method::GET, "/docs/lints/{code}", "getLintPage", |Path(code): Path<String>| async move {
            lint_page(&code)
        })
        .about(FAMILY, "Explains the `code` of a warning")
        .answers_with(200, "the explanation", HTML, text)
        .errors(&[&UNKNOWN_LINT]),
    ]
}

async fn document() -> Response {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| format!("{}\n", openapi::document(&all())).into());
    ([(CONTENT_TYPE, "application/json")], TEXT.clone()).into_response()
}

fn asset(file: &str) -> Result<Response, Error> {
    static CONFIG: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> =
        LazyLock::new(|| Arc::new(utoipa_swagger_ui::Config::from("/openapi.json")));
    let found = utoipa_swagger_ui::serve(file, Arc::clone(&CONFIG)).map_err(Error::internal)?;
    let found = found.ok_or_else(|| Error::new(&UNKNOWN_PATH, format!("the documentation has no file `{file}`")))?;
    let content_type = HeaderValue::from_str(&found.content_type).map_err(Error::internal)?;
    let mut response = Response::new(Body::from(Bytes::from(found.bytes.into_owned())));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    // Everything comes from here, also if a description should ever hold something active.
    response.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        ),
    );
    Ok(response)
}

fn error_page(code: &str) -> Result<Response, Error> {
    let codes: Vec<&str> = SORTS.iter().map(|sort| sort.code).collect();
    let Some(sort) = SORTS.iter().find(|sort| sort.code == code) else {
        return Err(unknown(&UNKNOWN_ERROR, "error", code, &codes));
    };
    let Sort { code, status, title, explanation } = sort;
    Ok(Page { code, title, below: &format!(", status {status}"), explanation, all: "All error codes", codes }.answer())
}

fn lint_page(code: &str) -> Result<Response, Error> {
    let codes: Vec<&str> = LINTS.iter().map(|lint| lint.code).collect();
    let Some(lint) = LINTS.iter().find(|lint| lint.code == code) else {
        return Err(unknown(&UNKNOWN_LINT, "warning", code, &codes));
    };
    let Lint { code, summary, explanation } = lint;
    Ok(Page { code, title: summary, below: "", explanation, all: "All codes of warnings", codes }.answer())
}

fn unknown(sort: &'static Sort, what: &str, code: &str, codes: &[&str]) -> Error {
    let meant = closest(code, codes.iter().copied());
    let hint = meant.map(|meant| format!(": did you mean `{meant}`?")).unwrap_or_default();
    Error::new(sort, format!("there is no code of a{} {what} `{code}`{hint}", if what == "error" { "n" } else { "" }))
}

/// A page that explains one code.
struct Page<'a> {
    code: &'a str,
    title: &'a str,
    /// Behind the code.
    below: &'a str,
    /// In paragraphs.
    explanation: &'a str,
    /// The heading of the other codes.
    all: &'a str,
    codes: Vec<&'a str>,
}

impl Page<'_> {
    fn answer(&self) -> Response {
        let headers = [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
        ];
        (headers, self.html()).into_response()
    }

    fn html(&self) -> String {
        let Self { code, title, below, explanation, all, codes } = self;
        let others: String = codes.iter().map(|other| format!("<li><a href=\"{other}\">{other}</a></li>\n")).collect();
        let text: String =
            explanation.split("\n\n").map(|paragraph| format!("<p>{}</p>\n", marked_up(paragraph))).collect();
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }}</style>\n\
             <h1>{title}</h1>\n<p><code>{code}</code>{below}</p>\n{text}\
             <details><summary>{all}</summary>\n<ul>\n{others}</ul>\n</details>\n<p><a href=\"/docs/\">All operations</a></p>\n</html>\n",
        )
    }
}

/// Escapes HTML and shows what stands in backquotes as code.
fn marked_up(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut parts = escaped.split('`');
    let mut html = parts.next().unwrap_or_default().to_owned();
    for (index, part) in parts.enumerate() {
        html.push_str(if index % 2 == 0 { "<code>" } else { "</code>" });
        html.push_str(part);
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_escape_what_is_no_markup() {
        assert_eq!(marked_up("send `Bearer <token>` & go"), "send <code>Bearer &lt;token&gt;</code> &amp; go");
    }
}
