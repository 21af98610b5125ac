"""Requests to fabricate, free of any transport, and the two forms in which they come: JSON and safetensors."""

from weightloom.requests.etags import check_if_match, names_etag
from weightloom.requests.json_form import INLINE_NAME, request_from_json, request_from_value
from weightloom.requests.options import OPTIONS_METADATA, RequestOptions, options_from_query, parse_rows
from weightloom.requests.request import FabricateRequest
from weightloom.requests.safetensors_form import SPEC_METADATA, request_from_safetensors, request_to_safetensors

__all__ = [
    "INLINE_NAME",
    "OPTIONS_METADATA",
    "SPEC_METADATA",
    "FabricateRequest",
    "RequestOptions",
    "check_if_match",
    "names_etag",
    "options_from_query",
    "parse_rows",
    "request_from_json",
    "request_from_safetensors",
    "request_from_value",
    "request_to_safetensors",
]
