"""Helpers for whoever plans a study: draft a study file, check tables against it, make tables from it."""
