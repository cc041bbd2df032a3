"""A workload with boto3: does what it is told with a credential of Dayfly's, and says how each went.

Reads from standard input, as JSON: where AWS is, the credential as Dayfly's API gave it, and a list of
calls: service, operation, arguments. Prints a list: "ok", or the error code of AWS.
"""

import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

asked = json.load(sys.stdin)
credential = asked["credential"]
assert credential.pop("type") == "aws_session", "this is no session of AWS"
session = boto3.Session(
    aws_access_key_id=credential.pop("access_key_id"),
    aws_secret_access_key=credential.pop("secret_access_key"),
    aws_session_token=credential.pop("session_token"),
    region_name=credential.pop("region"),
)
assert not credential, f"nobody here knows {list(credential)}"
told = []
for service, operation, arguments in asked["calls"]:
    config = Config(proxies={}, retries={"total_max_attempts": 1})
    client = session.client(service, endpoint_url=asked["endpoint"], config=config)
    try:
        getattr(client, operation)(**arguments)
        told.append("ok")
    except ClientError as error:
        told.append(error.response["Error"]["Code"])
json.dump(told, sys.stdout)
