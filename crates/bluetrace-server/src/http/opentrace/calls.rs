//! Owns the three calls: `TempIDs`, the handshake PIN, and the token for an upload.

use bluetrace_authority::Member;
use bluetrace_authority::upload_tokens::UploadTokenIssued;
use bluetrace_protocol::limits::MAX_TEMP_IDS;
use bluetrace_protocol::opentrace::callable::in_words;
use bluetrace_protocol::{Record, Timestamp, UploadCode};
use serde::Serialize;
use serde_json::Value;

use super::{CallBody, CallableError, CallableResult, CallableStatus, FailureBody, ResultBody};
use crate::http::v1::temp_ids::{issue, refresh_at};
use crate::http::v1::uploads::too_many_codes;
use crate::http::{Api, json_text};

/// Issues a batch of 100 TempIDs: `{"data":null}` is answered with
/// `{"result":{"status":"SUCCESS","tempIDs":[{"tempID","startTime","expiryTime"}],"refreshTime"}}`, times in whole Unix seconds.
///
/// The first began a minute ago, and each ends with the second in which the next begins.
#[utoipa::path(
    post, path = "/getTempIDs", tag = "opentrace", request_body = CallBody, security(("access_token" = [])),
    responses((status = OK, body = ResultBody<Value>, description = "`result`"), (status = "default", body = FailureBody, description = "`error`"))
)]
pub(crate) async fn get_temp_ids(api: &Api, caller: &Member) -> CallableResult {
    let now = api.now();
    let issuing = api.shared.authority.issue_opentrace_temp_ids(caller, MAX_TEMP_IDS, now);
    let records = issue(api, caller, issuing).await?;
    Ok(temp_ids_text(&records, refresh_at(&records, now)))
}

/// The answer's JSON text. A TempID is digits or base64, in which there is nothing to escape: to let a serialiser look for it
/// costs a third of what sealing them does.
fn temp_ids_text(records: &[Record], refresh: Timestamp) -> String {
    let mut text = String::with_capacity(160 * (records.len() + 1));
    let mut number = itoa::Buffer::new();
    text.push_str(r#"{"result":{"status":"SUCCESS","tempIDs":["#);
    for (place, Record { temp_id, window }) in records.iter().enumerate() {
        text.push_str(if place == 0 { r#"{"tempID":""# } else { r#",{"tempID":""# });
        text.push_str(temp_id.reveal());
        text.push_str(r#"","startTime":"#);
        text.push_str(number.format(window.start().as_unix()));
        text.push_str(r#","expiryTime":"#);
        text.push_str(number.format(window.expiry().as_unix()));
        text.push('}');
    }
    text.push_str(r#"],"refreshTime":"#);
    text.push_str(number.format(refresh.as_unix()));
    text.push_str("}}");
    text
}

#[derive(Serialize)]
struct PinResult<'a> {
    status: &'static str,
    pin: &'a str,
}

/// The PIN by which an official shows to be one, `{"result":{"status":"SUCCESS","pin"}}`: the official sees the same.
#[utoipa::path(
    post, path = "/getHandshakePin", tag = "opentrace", request_body = CallBody, security(("access_token" = [])),
    responses((status = OK, body = ResultBody<Value>, description = "`result`"), (status = "default", body = FailureBody, description = "`error`"))
)]
pub(crate) async fn get_handshake_pin(api: &Api, caller: &Member) -> CallableResult {
    let pin = api.shared.authority.handshake_pin(caller, api.now()).await.map_err(|error| api.failure(&error))?;
    let (pin, _) = pin.ok_or_else(|| api.account_gone(caller))?;
    Ok(json_text(&ResultBody { result: PinResult { status: "SUCCESS", pin: pin.reveal() } }))
}

#[derive(Serialize)]
struct TokenResult<'a> {
    status: &'static str,
    token: &'a str,
}

/// Redeems an upload code, `{"data":"<code>"}`, for a token that lets its bearer upload once within two hours,
/// `{"result":{"status":"SUCCESS","token"}}`.
///
/// The code is taken as it was read out, and nothing else is. It is the account's from here on; until its upload is complete the
/// same account may ask again.
#[utoipa::path(
    post, path = "/getUploadToken", tag = "opentrace", request_body = CallBody, security(("access_token" = [])),
    responses((status = OK, body = ResultBody<Value>, description = "`result`"), (status = "default", body = FailureBody, description = "`error`"))
)]
pub(crate) async fn get_upload_token(api: &Api, caller: &Member, data: &Value) -> CallableResult {
    let refused = || CallableError::new(CallableStatus::InvalidArgument, format!("Invalid data: {}", in_words(data)));
    api.budgets.upload_of(caller.account)?;
    // the reference compares texts, so neither a number nor a code with a space is one
    let text = data.as_str().filter(|text| !text.is_empty() && !text.contains(char::is_whitespace));
    let code = text.and_then(UploadCode::parse).ok_or_else(refused)?;
    let now = api.now();
    let issued = api.shared.authority.upload_token(caller, &code, now).await.map_err(|error| api.failure(&error))?;
    match issued {
        UploadTokenIssued::Issued(token) => {
            Ok(json_text(&ResultBody { result: TokenResult { status: "SUCCESS", token: token.reveal() } }))
        }
        UploadTokenIssued::Refused => Err(refused()),
        UploadTokenIssued::TooMany { until } => Err(too_many_codes(until, now).into()),
        UploadTokenIssued::NoAccount => Err(api.account_gone(caller).into()),
    }
}
