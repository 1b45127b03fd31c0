"""POST /v1/classify: a classifier says what texts are."""

from fastapi import APIRouter

router = APIRouter()
