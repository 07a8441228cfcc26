//! The routes, as `/openapi.json` describes them: all of them, and which are open.

use std::collections::BTreeSet;
use std::path::Path;

use bluetrace_server::http::ProblemCode;
use serde_json::{Value, json};

use crate::harness::{ALICE, Site, line};

/// What works without authorisation. Whoever adds to it says why here.
const OPEN: [(&str, &str); 9] = [
    // a supervisor and a load balancer have no account
    ("get", "/healthz"),
    ("get", "/readyz"),
    // nothing in it is about a person
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    // where accounts and tokens come from
    ("post", "/v1/registrations"),
    ("post", "/v1/registrations/confirmation"),
    ("post", "/v1/login"),
    ("post", "/v1/session"),
    // who has withdrawn has no account
    ("post", "/v1/withdrawals/check"),
];

#[tokio::test]
async fn every_route_is_described_and_answers() {
    let site = Site::start().await;
    let description = description(&site).await;
    assert_eq!(description["openapi"], "3.1.0");
    let described: BTreeSet<_> = operations(&description).into_iter().map(|(method, path, _)| (method, path)).collect();
    let expected: BTreeSet<_> = [
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("post", "/v1/registrations"),
        ("post", "/v1/registrations/confirmation"),
        ("post", "/v1/login"),
        ("post", "/v1/session"),
        ("delete", "/v1/session"),
        ("post", "/v1/temp-ids"),
        ("put", "/v1/uploads/{id}"),
        ("get", "/v1/uploads/{id}"),
        ("post", "/v1/uploads/{id}/records"),
        ("get", "/v1/notices"),
        ("post", "/v1/notices/read"),
        ("delete", "/v1/me"),
        ("post", "/v1/withdrawals/check"),
        ("post", "/getTempIDs"),
        ("post", "/getHandshakePin"),
        ("post", "/getUploadToken"),
        ("post", "/{project}/{region}/getTempIDs"),
        ("post", "/{project}/{region}/getHandshakePin"),
        ("post", "/{project}/{region}/getUploadToken"),
        ("post", "/upload"),
    ]
    .into_iter()
    .map(|(method, path)| (method.to_owned(), path.to_owned()))
    .collect();
    assert_eq!(described, expected);
    for (method, path) in described {
        let answer = site.ask(&method.to_uppercase(), &example(&path), None, Some(json!({"data": null}))).await;
        assert!(answer.status != 404 && answer.status != 405, "{method} {path}: {answer:?}");
    }
}

#[test]
fn no_route_is_made_but_through_its_description() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let mut made = Vec::new();
    for folder in [folder.clone(), folder.join("v1"), folder.join("opentrace")] {
        for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            made.extend(text.matches(".route(").map(|_| name.clone()));
            assert!(!text.contains(".nest(") && !text.contains(".route_service("), "{name}");
        }
    }
    // the calls, each at its two paths, which the test above counts
    assert_eq!(made, ["mod.rs", "mod.rs"]);
}

#[tokio::test]
async fn no_route_works_without_authorisation_but_those_of_the_list() {
    let site = Site::start().await;
    let description = description(&site).await;
    let token = site.login(ALICE).await;
    let resume = site.session(ALICE).await["resumeToken"].clone();
    for (method, path, operation) in operations(&description) {
        let is_open = OPEN.contains(&(&*method, &*path));
        assert_eq!(operation["security"].is_null(), is_open, "{method} {path} is described as it is");
        // `/upload` brings what authorises it in its body, and so asks for no header; it is refused as any other all the same
        let takes_none = operation["security"].as_array().is_some_and(|ways| ways.contains(&json!({})));
        assert_eq!(takes_none, path == "/upload", "{method} {path}");
        for bad in [None, Some("x"), resume.as_str(), Some(&token[1..])] {
            let body = if path.ends_with("/records") {
                None
            } else {
                Some(json!({"data": null, "count": 1, "records": 1, "upTo": 1}))
            };
            let body = if path.contains("get") { Some(json!({"data": null})) } else { body };
            let answer = site.ask(&method.to_uppercase(), &example(&path), bad, body).await;
            if !is_open {
                assert_eq!(answer.status, 401, "{method} {path} with {bad:?}: {answer:?}");
            }
        }
    }
    // and nothing came of it all
    site.get("/v1/uploads/example", &token).await.expect_problem(404, "not_found");
}

#[tokio::test]
async fn every_reference_of_the_description_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
    let site = Site::start().await;
    let description = description(&site).await;
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&description) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "{method} {path}: {name} is taken");
        assert!(operation["responses"].is_object() && operation["tags"].is_array(), "{method} {path}");
    }
    let text = description.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(description.pointer(reference).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn an_answer_has_the_fields_that_the_description_says() {
    let site = Site::start().await;
    let description = description(&site).await;
    let session = site.session(ALICE).await;
    let token = session["accessToken"].as_str().unwrap();
    let temp_ids = site.post("/v1/temp-ids", token, json!({"count": 1})).await.expect(200);
    site.begin("u", 1, token).await;
    let upload = site.send("u", 0, &line(1), token).await.expect(200);
    let notices = site.get("/v1/notices", token).await.expect(200);
    let problem = site.attempt((ALICE.0, "guess")).await.expect(401);
    for (name, answer) in [
        ("SessionBody", &session),
        ("TempIdsBody", &temp_ids),
        ("TempIdBody", &temp_ids["tempIds"][0]),
        ("UploadBody", &upload),
        ("SummaryBody", &upload["summary"]),
        ("NoticesBody", &notices),
        ("Problem", &problem),
    ] {
        let schema = &description["components"]["schemas"][name];
        assert!(schema.is_object(), "{name} is not described");
        let (properties, required) = properties(schema, &description);
        let fields: BTreeSet<_> = answer.as_object().unwrap().keys().cloned().collect();
        assert!(fields.is_subset(&properties), "{name}: {fields:?} of {properties:?}");
        assert!(required.is_subset(&fields), "{name}: {fields:?} without all of {required:?}");
    }
}

#[tokio::test]
async fn the_metrics_count_requests_and_name_nobody() {
    let site = Site::start().await;
    let token = site.login(ALICE).await;
    site.post("/v1/temp-ids", &token, json!({"count": 7})).await.expect(200);
    site.begin("secret-upload", 2, &token).await;
    site.send("secret-upload", 0, &format!("{}{}", line(1), line(2)), &token).await.expect(200);
    site.get("/v1/uploads/nothing", &token).await.expect(404);
    site.get("/nothing", &token).await.expect(404);
    site.ask("INVENTED", "/healthz", None, None).await.expect(405);
    let answer = site.ask("GET", "/metrics", None, None).await;
    assert_eq!(answer.status, 200);
    for line in [
        "bluetrace_http_requests_total{method=\"POST\",route=\"/v1/temp-ids\",status=\"200\"} 1",
        "bluetrace_http_requests_total{method=\"GET\",route=\"/v1/uploads/{id}\",status=\"404\"} 1",
        "bluetrace_http_requests_total{method=\"GET\",route=\"other\",status=\"404\"} 1",
        "bluetrace_http_requests_total{method=\"other\",route=\"/healthz\",status=\"405\"} 1",
        "bluetrace_http_problems_total{code=\"not_found\"} 2",
        "bluetrace_http_temp_ids_issued_total 7",
        "bluetrace_http_records_received_total 2",
        "bluetrace_http_requests_under_way 1",
        "bluetrace_queue_depth{queue=\"passwords\"} 3",
        "bluetrace_store_up 1",
        "bluetrace_http_request_duration_seconds_count{route=\"/v1/login\"} 1",
    ] {
        assert!(answer.body.lines().any(|said| said == line), "no {line} in\n{}", answer.body);
    }
    for secret in [ALICE.0, ALICE.1, &*token, "secret-upload", "00000000000000000001"] {
        assert!(!answer.body.contains(secret), "{secret}");
    }
}

#[test]
fn the_documentation_lists_every_problem() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/http.md")).unwrap();
    for code in ProblemCode::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.status().as_u16());
        assert!(page.contains(&row), "docs/http.md has no row that begins {row}");
    }
}

#[tokio::test]
async fn a_server_is_ready_until_it_ends() {
    let site = Site::start().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(site.ask("GET", path, None, None).await.expect(200), json!({"status": "ok"}));
    }
}

#[tokio::test]
async fn a_server_whose_store_fails_in_whatever_way_is_not_ready() {
    let site = Site::over_sqlite().await;
    let database = rusqlite::Connection::open(site.folder.path().join("authority.sqlite")).unwrap();
    for (from, to, status) in [("created", "born", 503), ("born", "created", 200)] {
        database.execute_batch(&format!("ALTER TABLE account RENAME COLUMN {from} TO {to}")).unwrap();
        let answer = site.ask("GET", "/readyz", None, None).await;
        match status {
            200 => assert_eq!(answer.expect(200), json!({"status": "ok"})),
            status => _ = answer.expect_problem(status, "unavailable"),
        }
    }
}

async fn description(site: &Site) -> Value {
    site.ask("GET", "/openapi.json", None, None).await.expect(200)
}

fn operations(description: &Value) -> Vec<(String, String, Value)> {
    let mut operations = Vec::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "options", "head", "patch", "trace"] {
            if let Some(operation) = item.get(method) {
                operations.push((method.to_owned(), path.clone(), operation.clone()));
            }
        }
    }
    operations
}

/// The names of a schema's properties, and of those that are always there.
fn properties(schema: &Value, description: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut all, mut required) = (BTreeSet::new(), BTreeSet::new());
    if let Some(reference) = schema["$ref"].as_str() {
        return properties(description.pointer(reference.trim_start_matches('#')).unwrap(), description);
    }
    all.extend(schema["properties"].as_object().into_iter().flat_map(|fields| fields.keys().cloned()));
    required.extend(
        schema["required"].as_array().into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)),
    );
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let (more, more_required) = properties(part, description);
        all.extend(more);
        required.extend(more_required);
    }
    (all, required)
}

fn example(path: &str) -> String {
    path.replace("{id}", "example").replace("{project}", "p").replace("{region}", "r")
}
