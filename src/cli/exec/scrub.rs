//! What of the environment is not passed on: credentials that happen to lie around, and the evidence of the
//! workload. By name, and where a URL carries a password, by value.

/// The names themselves.
const NAMES: [&str; 31] = [
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "BUNDLE_RUBYGEMS__ORG",
    "CI_JOB_JWT_V2",
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
const BEGINNINGS: [&str; 12] = [
    "AWS_",
    "AZURE_",
    "ARM_",
    "CLOUDSDK_AUTH_",
    "DAYFLY_EVIDENCE",
    "GH_",
    "GITLAB_",
    "NPM_CONFIG__AUTH",
    "NPM_CONFIG_//",
    "OP_SESSION",
    "TF_TOKEN_",
    "VAULT_",
];

/// Whatever ends so.
const ENDS: [&str; 21] = [
    "_ACCESS_KEY_ID",
    "_APIKEY",
    "_AUTH",
    "_AUTHTOKEN",
    "_BEARER",
    "_CONNECTION_STRING",
    "_CREDENTIAL",
    "_CREDENTIALS",
    "_JWT",
    "_KEY",
    "_KEY_BASE",
    "_PASS",
    "_PASSPHRASE",
    "_PASSWD",
    "_PASSWORD",
    "_PAT",
    "_PWD",
    "_SECRET",
    "_SESSION",
    "_TOKEN",
    "_TOKENS",
];

/// What begins like a credential and says only where and how. An endpoint is whoever called's to choose.
const HARMLESS: [&str; 19] = [
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
    "DESKTOP_SESSION",
    "GH_HOST",
    "GITLAB_HOST",
    "GITLAB_CI",
    "KDE_FULL_SESSION",
    "SESSION",
    "VAULT_ADDR",
    "VAULT_CACERT",
];

/// Keys that are no secret.
const OPEN_KEYS: [&str; 7] = [
    "_CACHE_KEY",
    "_FOREIGN_KEY",
    "_PARTITION_KEY",
    "_PRIMARY_KEY",
    "_PUBLIC_KEY",
    "_PUBLISHABLE_KEY",
    "_SORT_KEY",
];

/// Whether a variable may carry a credential.
pub(super) fn is_ambient_credential(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let harmless = HARMLESS.contains(&name.as_str())
        || name.starts_with("AWS_ENDPOINT_URL")
        || OPEN_KEYS.iter().any(|end| name.ends_with(end))
        // How many tokens a model may use, say.
        || name.ends_with("TOKENS") && value.bytes().all(|b| b.is_ascii_digit());
    if harmless {
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

/// Whether there is a password in it, as in the URL of a database, or in the words by which a driver finds one.
fn carries_password(value: &str) -> bool {
    is_url_with_password(value) || names_password(value)
}

/// Such as `…?user=me&password=pw`, `host=db password=pw`, or `Server=db;Pwd=pw`.
fn names_password(value: &str) -> bool {
    let parts = value.split(|c: char| c.is_whitespace() || "?&;,".contains(c));
    parts
        .filter_map(|part| part.split_once('='))
        .any(|(name, password)| {
            let named = ["password", "passwd", "pwd"]
                .iter()
                .any(|word| name.eq_ignore_ascii_case(word));
            named && !password.is_empty()
        })
}

/// Whether a URL has one beside its user.
fn is_url_with_password(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else {
        return false;
    };
    let named = !scheme.is_empty()
        && scheme
            .bytes()
            // A scheme of JDBC has another within.
            .all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b));
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
            "RAILS_MASTER_KEY",
            "SECRET_KEY_BASE",
            "SOPS_AGE_KEY",
            "ENCRYPTION_KEY",
            "STRIPE_KEY",
            "COSIGN_KEY",
            "OP_SESSION_my",
            "BW_SESSION",
            "SERVICE_TOKENS",
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
            ("MAX_TOKENS", "4096"),
            ("MAX_THINKING_TOKENS", "31999"),
            ("RELEASE_PUBLIC_KEY", "RWQ"),
            ("DESKTOP_SESSION", "gnome"),
            ("OPTIONS", "user=me;password="),
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
            "jdbc:mysql://me:pw@db/orders",
            "jdbc:postgresql://db/orders?user=me&password=pw",
            "host=db user=me password=pw",
            "Server=db;Uid=me;PWD=pw;",
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
