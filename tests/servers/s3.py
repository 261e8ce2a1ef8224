"""An S3 server for tests, in memory, with the bucket `tidemill`: prints its URL, and stops when its
standard input ends."""

from __future__ import annotations

import sys

import boto3
from moto.server import ThreadedMotoServer


def main() -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="tidemill")
    print(url, flush=True)
    # Whoever started it holds the other end, and need not live to say that it is done.
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
