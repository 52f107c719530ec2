//! What a pod's object leads to: variables, and the files of its volumes, from what the API server keeps.

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use serde_json::Value;

use super::RealApiServer;
use super::api::Api as _;

/// The one of a list that has this name.
pub fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|one| one["name"] == name)
}

/// The variables of a container, in the order of their definition.
///
/// # Errors
/// One comes from what is not there.
pub fn environment(
    api: &RealApiServer,
    pod: &Value,
    container: &Value,
) -> anyhow::Result<Vec<(String, String)>> {
    let mut variables: Vec<(String, String)> = Vec::new();
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let (kind, reference) = match source["configMapRef"].is_object() {
            true => ("configmaps", &source["configMapRef"]),
            false => ("secrets", &source["secretRef"]),
        };
        variables.extend(texts(api, kind, reference["name"].as_str().context("a name")?)?);
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a variable with a name")?;
        let value = match &variable["valueFrom"] {
            Value::Null => expanded(variable["value"].as_str().unwrap_or_default(), &variables),
            from => Some(value_of(api, pod, from)?),
        };
        let value =
            value.with_context(|| format!("{name} names a variable that is not defined before it"))?;
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

/// With `$(NAME)` replaced by the variables so far; none where one is not there, which a kubelet leaves as it is.
fn expanded(text: &str, variables: &[(String, String)]) -> Option<String> {
    let with = |text: String, (name, value): &(String, String)| text.replace(&format!("$({name})"), value);
    let text = variables.iter().fold(text.to_owned(), with);
    (!text.contains("$(")).then_some(text)
}

fn value_of(api: &RealApiServer, pod: &Value, from: &Value) -> anyhow::Result<String> {
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return field(pod, path);
    }
    let (kind, reference) = match from["secretKeyRef"].is_object() {
        true => ("secrets", &from["secretKeyRef"]),
        false => ("configmaps", &from["configMapKeyRef"]),
    };
    let (name, key) = (reference["name"].as_str(), reference["key"].as_str());
    let (Some(name), Some(key)) = (name, key) else { bail!("a variable comes from nowhere: {from}") };
    let found = texts(api, kind, name)?.into_iter().find(|(known, _)| known == key);
    Ok(found.with_context(|| format!("{kind}/{name} has no {key}"))?.1)
}

/// Kubernetes documentation: "Available fields".
fn field(pod: &Value, path: &str) -> anyhow::Result<String> {
    let label = path.strip_prefix("metadata.labels['").and_then(|rest| rest.strip_suffix("']"));
    let value = match (label, path) {
        (Some(label), _) => &pod["metadata"]["labels"][label],
        (None, "metadata.name") => &pod["metadata"]["name"],
        (None, "metadata.namespace") => &pod["metadata"]["namespace"],
        (None, "status.podIP") => &pod["status"]["podIP"],
        _ => bail!("the kubelet of the tests knows no field {path}"),
    };
    Ok(value.as_str().with_context(|| format!("the pod has no {path}"))?.to_owned())
}

/// What a ConfigMap or a Secret holds, as texts.
fn texts(api: &RealApiServer, kind: &str, name: &str) -> anyhow::Result<Vec<(String, String)>> {
    let object = api.find(kind, name)?.with_context(|| format!("there is no {kind}/{name}"))?;
    let entries = object["data"].as_object().into_iter().flatten();
    let text = |(key, value): (&String, &Value)| -> anyhow::Result<(String, String)> {
        let value = value.as_str().context("a text")?;
        let value = match kind {
            "secrets" => String::from_utf8(base64::engine::general_purpose::STANDARD.decode(value)?)?,
            _ => value.to_owned(),
        };
        Ok((key.clone(), value))
    };
    entries.map(text).collect()
}

/// The files of a volume of a Secret or a ConfigMap.
///
/// # Errors
/// It is neither, or not there although it must be.
pub fn file_contents(api: &RealApiServer, volume: &Value) -> anyhow::Result<Vec<(String, String)>> {
    let (kind, reference, name) = match (&volume["secret"], &volume["configMap"]) {
        (secret, Value::Null) if secret.is_object() => ("secrets", secret, &secret["secretName"]),
        (Value::Null, map) if map.is_object() => ("configmaps", map, &map["name"]),
        _ => bail!("the kubelet of the tests knows no such volume: {volume}"),
    };
    ensure!(reference["items"].is_null(), "the kubelet of the tests knows no items: {volume}");
    let name = name.as_str().context("a name")?;
    if reference["optional"] == true && api.find(kind, name)?.is_none() {
        return Ok(Vec::new());
    }
    texts(api, kind, name)
}
