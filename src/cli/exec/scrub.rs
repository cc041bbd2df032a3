//! What of the environment is not passed on: credentials that happen to lie around, and the evidence of the
//! workload. By name, and where a URL carries a password, by value.

/// The names themselves.
const NAMES: [&str; 32] = [
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "BUNDLE_RUBYGEMS__ORG",
    "CI_JOB_JWT_V2",
    "COSIGN_KEY",
    "DAYFLY_AGENT",
    "DAYFLY_EXEC_SOCKET",
    "DAYFLY_TASK",
    "DBUS_SESSION_BUS_ADDRESS",
    "DOCKER_AUTH_CONFIG",
    "DOCKER_CONFIG",
    "GIT_ASKPASS",
    "GIT_CONFIG_PARAMETERS",
    "GNUPGHOME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GPG_AGENT_INFO",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "KRB5CCNAME",
    "KUBECONFIG",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "MYSQL_PWD",
    "NETRC",
    "PGPASSFILE",
    "PGPASSWORD",
    "PGSERVICE",
    "PGSERVICEFILE",
    "REGISTRY_AUTH_FILE",
    "SPIFFE_ENDPOINT_SOCKET",
    "SSH_AGENT_PID",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
];

/// Whatever begins so.
const BEGINNINGS: [&str; 11] = [
    "AWS_",
    "AZURE_",
    "ARM_",
    "CLOUDSDK_AUTH_",
    "DAYFLY_EVIDENCE",
    "GH_",
    "GITLAB_",
    "NPM_CONFIG__AUTH",
    "NPM_CONFIG_//",
    "TF_TOKEN_",
    "VAULT_",
];

/// Whatever ends so.
const ENDS: [&str; 24] = [
    "_ACCESS_KEY",
    "_ACCESS_KEY_ID",
    "_ACCOUNT_KEY",
    "_APIKEY",
    "_API_KEY",
    "_APP_KEY",
    "_AUTH",
    "_AUTHTOKEN",
    "_BEARER",
    "_CONNECTION_STRING",
    "_CREDENTIAL",
    "_CREDENTIALS",
    "_JWT",
    "_PASS",
    "_PASSPHRASE",
    "_PASSWD",
    "_PASSWORD",
    "_PAT",
    "_PRIVATE_KEY",
    "_PWD",
    "_SECRET",
    "_SECRET_KEY",
    "_SIGNING_KEY",
    "_TOKEN",
];

/// What begins like a credential and says only where and how. An endpoint is whoever called's to choose.
const HARMLESS: [&str; 16] = [
    "AWS_CA_BUNDLE",
    "AWS_CLI_AUTO_PROMPT",
    "AWS_DEFAULT_OUTPUT",
    "AWS_DEFAULT_REGION",
    "AWS_MAX_ATTEMPTS",
    "AWS_PAGER",
    "AWS_REGION",
    "AWS_RETRY_MODE",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_USE_DUALSTACK_ENDPOINT",
    "AWS_USE_FIPS_ENDPOINT",
    "GH_HOST",
    "GITLAB_HOST",
    "GITLAB_CI",
    "VAULT_ADDR",
    "VAULT_CACERT",
];

/// Whether a variable may carry a credential.
pub(super) fn is_ambient_credential(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    if HARMLESS.contains(&name.as_str()) || name.starts_with("AWS_ENDPOINT_URL") {
        return carries_password(value);
    }
    // A word that is a secret as a whole, without anything before it.
    let bare = || {
        ENDS.iter()
            .any(|end| end.trim_start_matches('_') == name && name != "PWD")
    };
    NAMES.contains(&name.as_str())
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
        || ENDS.iter().any(|end| name.ends_with(end))
        || bare()
        // What is scrubbed from a proxy takes the network away.
        || !name.ends_with("_PROXY") && carries_password(value)
}

/// Whether it is a URL with a password in it, such as that of a database.
fn carries_password(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else {
        return false;
    };
    let named = !scheme.is_empty()
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let password = user.and_then(|user| user.split_once(':'));
    named && password.is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_a_credential_by_its_name_is_found() {
        for name in [
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "GITHUB_TOKEN",
            "GH_TOKEN",
            "GITLAB_TOKEN",
            "CI_JOB_TOKEN",
            "VAULT_TOKEN",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "AZURE_CLIENT_SECRET",
            "KUBECONFIG",
            "PGPASSWORD",
            "PGPASSFILE",
            "PGSERVICEFILE",
            "DOCKER_CONFIG",
            "DOCKER_AUTH_CONFIG",
            "NPM_TOKEN",
            "npm_config__authToken",
            "SSH_AUTH_SOCK",
            "DAYFLY_EVIDENCE",
            "DAYFLY_EVIDENCE_FILE",
            "SPIFFE_ENDPOINT_SOCKET",
            "GIT_ASKPASS",
            "SSH_ASKPASS",
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "STRIPE_SECRET",
            "DB_PASSWORD",
            "MINIO_ACCESS_KEY",
            "TOKEN",
            "password",
            "TF_TOKEN_app_terraform_io",
        ] {
            assert!(is_ambient_credential(name, "x"), "{name}");
        }
    }

    #[test]
    fn what_a_program_needs_stays() {
        for (name, value) in [
            ("PATH", "/usr/bin"),
            ("HOME", "/root"),
            ("PWD", "/tmp"),
            ("OLDPWD", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("TERM", "xterm"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
            ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:4566"),
            ("VAULT_ADDR", "https://vault.example.org"),
            ("DAYFLY_BROKER", "http://127.0.0.1:8440"),
            ("HTTPS_PROXY", "http://user:password@proxy.example.org"),
            ("DATABASE_URL", "postgres://db.example.org/orders"),
            ("HOMEPAGE", "https://example.org/a:b@c"),
            ("COMPASS", "north"),
            ("TOKENIZERS_PARALLELISM", "false"),
            ("GITHUB_ACTIONS", "true"),
        ] {
            assert!(!is_ambient_credential(name, value), "{name}");
        }
    }

    #[test]
    fn a_url_with_a_password_is_a_credential_whatever_its_name() {
        for value in [
            "postgres://me:pw@db.example.org/orders",
            "redis://:pw@cache:6379",
            "amqp+ssl://a:b@c",
        ] {
            assert!(is_ambient_credential("WHATEVER", value), "{value}");
        }
        for value in [
            "postgres://me@db/orders",
            "://a:b@c",
            "no url: a:b@c",
            "https://a:@c",
        ] {
            assert!(!is_ambient_credential("WHATEVER", value), "{value}");
        }
    }
}
