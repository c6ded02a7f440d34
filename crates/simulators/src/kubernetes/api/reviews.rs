//! Questions that are POSTed: who is this token, may this user do that, who am I; and impersonation.

use http::HeaderMap;
use serde_json::{Value, json};

use super::authentication::{User, from_token};
use super::authorization::{Attributes, is_allowed, rules_of};
use super::error::ApiError;
use super::handler::Context;
use super::request::ObjectRequest;
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::object::{items, set, text};

/// Answers a review; nothing is stored.
///
/// # Errors
/// 400 for a body of another kind.
pub(crate) fn answer(cx: &Context, request: &ObjectRequest, mut review: Value) -> Result<Value, ApiError> {
    super::create::identify(request, &mut review)?;
    let status = match request.resource.kind.as_str() {
        "TokenReview" => match from_token(&cx.cluster, text(&review, "/spec/token")) {
            Some(user) => {
                json!({"authenticated": true, "user": user.to_json(), "audiences": [cx.cluster.identity.endpoint]})
            }
            None => json!({"user": {}, "error": "[invalid bearer token]"}),
        },
        "SelfSubjectReview" => json!({"userInfo": cx.user.to_json()}),
        "SelfSubjectAccessReview" => access(&cx.cluster, &cx.user, &review),
        "SelfSubjectRulesReview" => rules(cx, text(&review, "/spec/namespace")),
        _ => {
            let user = User {
                name: text(&review, "/spec/user").into(),
                uid: text(&review, "/spec/uid").into(),
                groups: items(&review, "/spec/groups").iter().filter_map(|it| it.as_str().map(str::to_owned)).collect(),
            };
            access(&cx.cluster, &user, &review)
        }
    };
    set(&mut review, &["status"], status);
    set(&mut review, &["metadata", "creationTimestamp"], Value::Null);
    Ok(review)
}

fn access(cluster: &Cluster, user: &User, review: &Value) -> Value {
    let part = |key: &str| text(review, &format!("/spec/resourceAttributes/{key}"));
    let asked = if review["spec"]["nonResourceAttributes"].is_object() {
        Attributes {
            verb: text(review, "/spec/nonResourceAttributes/verb"),
            path: text(review, "/spec/nonResourceAttributes/path"),
            ..Attributes::default()
        }
    } else {
        Attributes {
            verb: part("verb"),
            group: part("group"),
            resource: part("resource"),
            subresource: part("subresource"),
            namespace: part("namespace"),
            name: part("name"),
            path: "",
        }
    };
    if is_allowed(cluster, user, asked) { json!({"allowed": true}) } else { json!({"allowed": false}) }
}

fn rules(cx: &Context, namespace: &str) -> Value {
    let mut rules = rules_of(&cx.cluster, &cx.user, namespace);
    if cx.user.is_in("system:masters") {
        rules.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        rules.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    let of_urls = |rule: &&Value| rule.get("nonResourceURLs").is_some();
    let resource: Vec<&Value> = rules.iter().filter(|rule| !of_urls(rule)).collect();
    let other: Vec<&Value> = rules.iter().filter(of_urls).collect();
    json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": false})
}

/// Applies `Impersonate-User` and `Impersonate-Group`.
///
/// # Errors
/// 403 when the sender may not impersonate that user.
pub(crate) fn impersonate(cluster: &Cluster, user: User, headers: &HeaderMap) -> Result<User, ApiError> {
    let Some(name) = headers.get("impersonate-user").and_then(|value| value.to_str().ok()) else { return Ok(user) };
    let asked = Attributes { verb: "impersonate", resource: "users", name, ..Attributes::default() };
    if !is_allowed(cluster, &user, asked) {
        let message = format!(
            "users {name:?} is forbidden: User {:?} cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(ApiError::new(403, "Forbidden", message));
    }
    let mut groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|it| it.to_str().ok().map(str::to_owned)).collect();
    if let Some(account) = name.strip_prefix("system:serviceaccount:") {
        groups.push("system:serviceaccounts".into());
        groups.extend(account.split(':').next().map(|namespace| format!("system:serviceaccounts:{namespace}")));
    }
    groups.push("system:authenticated".into());
    Ok(User { name: name.into(), uid: String::new(), groups })
}
