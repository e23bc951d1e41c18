"""What stands behind a store's URI: S3, Google Cloud Storage, or whatever else pyarrow can open.

pyarrow reads, lists and writes. It has no conditional writes, so the one file that must not be written twice
(a manifest) is created with the client of the service: botocore for S3, google-cloud-storage for GCS. Both find
their credentials as usual (environment, profiles, role of the instance); none may stand in the URI.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from .errors import StoreError, StoreRefused, nearest

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

ANSWER_SECONDS = 30.0
"""How long a request may go without a single byte."""

METADATA_SECONDS = 3.0
"""How long the server may take from which machines of Google's cloud have their credentials; it is beside them."""


def open_bucket(uri: str) -> Bucket:
    """What stands behind a URI; nothing is asked over the network yet.

    Raises:
        StoreError: the URI holds credentials or an unknown option, or names no bucket.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        scheme = uri.partition("://")[0]
        raise StoreError(f"The URI of the store, {scheme}://…, cannot be understood: {error}.") from None
    user, at, _ = parts.netloc.rpartition("@")
    if (":" in parts.netloc or at) if parts.scheme == "s3" else ":" in user:
        raise StoreError(
            "The URI of the store holds credentials, which must not get into records: leave out what stands between "
            ":// and the bucket, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile in AWS_PROFILE."
        )
    kinds: dict[str, type[Bucket]] = {"s3": S3Bucket, "gs": GoogleBucket, "gcs": GoogleBucket}
    return kinds.get(parts.scheme, OtherBucket)(uri, parts)


class Bucket:
    """A pyarrow filesystem, opened when it is needed, and the prefix of a store on it.

    Attributes:
        prefix: bucket and folder, as pyarrow wants its paths to begin.
        folders: "implied" by the files in them, "made" before files, or "none" that pyarrow would see.
    """

    folders = "implied"
    options: tuple[str, ...] = ()
    needs = ""
    """Import name of the package that creates files conditionally."""
    extra = ""

    def __init__(self, uri: str, parts: SplitResult) -> None:
        self.uri = uri
        self.name = parts.netloc.rpartition("@")[2]
        self.prefix = f"{self.name}/{unquote(parts.path).strip('/')}".rstrip("/")
        if not self.name:
            raise StoreError(f"The store {uri!r} names no bucket: give one, such as {parts.scheme}://bucket/prefix.")
        self._query = self._checked(parts)
        self._system: Any = None
        self._client: Any = None
        self._lock = threading.Lock()

    def _checked(self, parts: SplitResult) -> dict[str, str]:
        found = dict(parse_qsl(parts.query, keep_blank_values=True))
        for option in found:
            if option not in self.options:
                raise StoreError(
                    f"The URI of the store {parts.scheme}://{self.prefix} has the unknown option {option!r}"
                    f"{nearest(option, self.options)}: those known are {', '.join(self.options)}."
                )
        return found

    def _flag(self, option: str) -> bool:
        value = self._query.get(option, "false").lower()
        if value not in ("true", "false", "1", "0"):
            raise StoreError(f"The option {option!r} of the store's URI must be true or false, not {value!r}.")
        return value in ("true", "1")

    def system(self) -> Any:
        """The pyarrow filesystem."""
        with self._lock:
            if self._system is None:
                self._system = self._open()
            return self._system

    def client(self) -> Any:
        """The service's own client."""
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def check_packages(self) -> None:
        """Raise StoreError unless what writing takes is installed."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            raise StoreError(
                f"Writing to the store {self.uri.partition('?')[0]} takes the package {self.extra_package}: "
                f"pip install 'landscape-orchestrator[{self.extra}]'."
            )

    @property
    def extra_package(self) -> str:
        return self.needs

    def is_there(self) -> bool:
        """Whether the bucket exists."""
        from pyarrow.fs import FileType

        return bool(self.system().get_file_info(self.name).type != FileType.NotFound)

    def make(self) -> bool:
        """Make the bucket if the URI allows that; whether it did."""
        return False

    def create(self, relative: str, data: bytes) -> bool | None:
        """Write a file if there is none; whether this call made it, or None where that is not to be had."""
        raise NotImplementedError

    def access_remedy(self, words: str) -> str:
        """What to do about a refusal."""
        return f"it refuses access ({words}); check the credentials and what they permit"

    def _open(self) -> Any:
        raise NotImplementedError

    def _connect(self) -> Any:
        raise NotImplementedError

    def _key(self, relative: str) -> str:
        return f"{self.prefix}/{relative}".partition("/")[2]


class S3Bucket(Bucket):
    """S3, or a server that speaks its protocol."""

    options = (
        "region", "scheme", "endpoint_override", "tls_ca_file_path",
        "allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open",
    )  # fmt: skip
    needs = "botocore"
    extra = "s3"

    def __init__(self, uri: str, parts: SplitResult) -> None:
        super().__init__(uri, parts)
        self._may_make = self._flag("allow_bucket_creation")
        self._scheme, self._endpoint = self._where(os.environ)
        if self._scheme not in ("http", "https"):
            raise StoreError(f"The option 'scheme' of the store's URI must be http or https, not {self._scheme!r}.")

    def _where(self, environment: Mapping[str, str]) -> tuple[str, str]:
        """Scheme and endpoint, from the URI or the usual variables."""
        scheme, endpoint = self._query.get("scheme"), self._query.get("endpoint_override", "")
        if not endpoint:
            endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
        if "://" in endpoint:
            own, _, endpoint = endpoint.partition("://")
            scheme = scheme or own
        return scheme or "https", endpoint.rstrip("/")

    def _region(self) -> str | None:
        region = (
            self._query.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
        )
        if region is None and self._endpoint:
            return "us-east-1"
        if region is None:
            from pyarrow.fs import resolve_s3_region

            region = str(resolve_s3_region(self.name))
        return region

    def _open(self) -> Any:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        options: dict[str, Any] = {
            "region": self._region(),
            "scheme": self._scheme,
            "endpoint_override": self._endpoint or None,
            "connect_timeout": CONNECT_SECONDS,
            "request_timeout": ANSWER_SECONDS,
            "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=1),  # `Files.attempt` tries again
            "allow_delayed_open": True,  # a small file is one request
            "allow_bucket_creation": self._may_make,
            "allow_bucket_deletion": self._flag("allow_bucket_deletion"),
        }
        if "tls_ca_file_path" in self._query:
            options["tls_ca_file_path"] = self._query["tls_ca_file_path"]
        return S3FileSystem(**options)

    def _connect(self) -> Any:
        import botocore.session
        from botocore.config import Config

        self_made = {"s3": {"addressing_style": "path"}} if self._endpoint else {}
        return botocore.session.get_session().create_client(
            "s3",
            region_name=self._region(),
            endpoint_url=f"{self._scheme}://{self._endpoint}" if self._endpoint else None,
            verify=self._query.get("tls_ca_file_path"),
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=ANSWER_SECONDS,
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",  # not every server knows the newer ones
                response_checksum_validation="when_required",
                **self_made,
            ),
        )

    def make(self) -> bool:
        if self._may_make:
            self.system().create_dir(self.name)
        return self._may_make

    def create(self, relative: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client().put_object(Bucket=self.name, Key=self._key(relative), Body=data, IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
                return False
            raise
        return True

    def access_remedy(self, words: str) -> str:
        return (
            f"it refuses access ({words}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the profile in "
            "AWS_PROFILE, and that they may read and write this bucket"
        )


class GoogleBucket(Bucket):
    """Google Cloud Storage, or a server that speaks its protocol."""

    folders = "none"
    options = ("scheme", "endpoint_override", "retry_limit_seconds", "project_id")
    needs = "google.cloud.storage"
    extra = "gcs"

    def __init__(self, uri: str, parts: SplitResult) -> None:
        super().__init__(uri, parts)
        user = parts.netloc.rpartition("@")[0]
        if user not in ("", "anonymous"):
            raise StoreError("The URI of a gs:// store can name no user but 'anonymous', as in gs://anonymous@bucket.")
        self._anonymous = bool(user)
        self._scheme, self._endpoint = self._query.get("scheme"), self._query.get("endpoint_override", "")
        if not self._endpoint:
            self._endpoint = os.environ.get("STORAGE_EMULATOR_HOST", "")
        if "://" in self._endpoint:
            self._scheme, _, self._endpoint = self._endpoint.partition("://")
        limit = self._query.get("retry_limit_seconds", "1")  # `Files.attempt` tries again
        try:
            self._limit = float(limit)
        except ValueError:
            raise StoreError(
                f"The option 'retry_limit_seconds' of the store's URI must be a number, not {limit!r}."
            ) from None

    def check_packages(self) -> None:
        try:
            missing = importlib.util.find_spec(self.needs) is None
        except ModuleNotFoundError:  # google itself
            missing = True
        if missing:
            raise StoreError(
                f"Writing to the store {self.uri.partition('?')[0]} takes the package google-cloud-storage: "
                "pip install 'landscape-orchestrator[gcs]'."
            )

    def _open(self) -> Any:
        from datetime import timedelta

        from pyarrow.fs import GcsFileSystem

        if not self._anonymous and not self._endpoint and not _has_google_credentials(os.environ):
            raise StoreRefused(
                f"The store {self.uri.partition('?')[0]} cannot be read or written: no Google credentials are here; "
                "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file; a "
                f"public bucket is read as gs://anonymous@{self.name}."
            )
        options: dict[str, Any] = {"retry_time_limit": timedelta(seconds=self._limit)}
        if self._anonymous:
            options["anonymous"] = True
        if self._endpoint:
            options |= {"endpoint_override": self._endpoint, "scheme": self._scheme or "https"}
        if "project_id" in self._query:
            options["project_id"] = self._query["project_id"]
        return GcsFileSystem(**options)

    def _connect(self) -> Any:
        from google.cloud import storage

        options: dict[str, Any] = {}
        if self._endpoint:
            options["client_options"] = {"api_endpoint": f"{self._scheme or 'https'}://{self._endpoint}"}
        if self._anonymous:
            from google.auth.credentials import AnonymousCredentials

            options |= {"credentials": AnonymousCredentials(), "project": self._query.get("project_id", "none")}
        elif "project_id" in self._query:
            options["project"] = self._query["project_id"]
        return storage.Client(**options)

    def create(self, relative: str, data: bytes) -> bool:
        from google.api_core.exceptions import PreconditionFailed

        blob = self.client().bucket(self.name).blob(self._key(relative))
        try:
            blob.upload_from_string(
                data, if_generation_match=0, retry=None, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), checksum="md5"
            )
        except PreconditionFailed:
            return False
        return True

    def access_remedy(self, words: str) -> str:
        return (
            f"it refuses access ({words}); check GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default "
            "login`, and that they may read and write this bucket"
        )


class OtherBucket(Bucket):
    """Any other filesystem of pyarrow (hdfs, abfs, …): it has no conditional writes.

    Of two writers that commit the same key in the same moment the last one's manifest stands; both are whole.
    """

    folders = "made"

    def __init__(self, uri: str, parts: SplitResult) -> None:
        from pyarrow.fs import FileSystem

        self.uri = uri
        self._client = None
        self._lock = threading.Lock()
        try:
            self._system, prefix = FileSystem.from_uri(uri)
        except Exception as error:  # pyarrow raises ArrowInvalid, OSError, NotImplementedError, …
            words = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise StoreError(f"The store {uri.partition('?')[0]!r} cannot be opened: {words}.") from None
        self.prefix = prefix.rstrip("/")
        self.name = self.prefix.partition("/")[0]
        if not self.prefix:
            raise StoreError(f"The store {uri.partition('?')[0]!r} names no folder: give one.")

    def is_there(self) -> bool:
        return True

    def create(self, relative: str, data: bytes) -> bool | None:
        return None


def _has_google_credentials(environment: Mapping[str, str]) -> bool:
    """Whether there is anything with which to ask Google: without, its client tries for most of a minute."""
    if environment.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return True
    folder = environment.get("CLOUDSDK_CONFIG") or os.path.join(os.path.expanduser("~"), ".config", "gcloud")
    if os.path.exists(os.path.join(folder, "application_default_credentials.json")):
        return True
    from http.client import HTTPConnection, HTTPException

    host = environment.get("GCE_METADATA_HOST") or environment.get("GCE_METADATA_ROOT") or "metadata.google.internal"
    try:
        connection = HTTPConnection(host, timeout=METADATA_SECONDS)
        connection.request("GET", "/", headers={"Metadata-Flavor": "Google"})
        return connection.getresponse().getheader("Metadata-Flavor") == "Google"
    except (OSError, HTTPException):
        return False
