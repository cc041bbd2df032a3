#!/bin/sh
# Runs once, when the database is made: a table, what agents may do with it, and the role by which Dayfly makes
# logins. docs/guides/postgres.md says why it needs these rights and no others.
set -eu
# The server is told the password through standard input, so it is on no command line.
{
    printf "\\\\set password '%s'\n" "$(cat /run/secrets/postgres-password)"
    cat <<'SQL'
CREATE TABLE orders (id integer PRIMARY KEY, customer text NOT NULL, total numeric NOT NULL);
INSERT INTO orders VALUES (1, 'Harbour Books', 42.50), (2, 'Mill Street Bakery', 17.20);

CREATE ROLE orders_reader NOLOGIN;
GRANT USAGE ON SCHEMA public TO orders_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO orders_reader;

CREATE ROLE dayfly LOGIN CREATEROLE PASSWORD :'password';
GRANT orders_reader TO dayfly WITH ADMIN OPTION;
SQL
} | psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username postgres --dbname "${POSTGRES_DB:-orders}"
