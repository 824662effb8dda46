"""The dashboard's entry: `streamlit run dashboard/app.py -- --plant … --historian … --controller …` (see `launch`)."""

from __future__ import annotations

import sys

import streamlit as st

from dashboard.launch import parse
from dashboard.page_operator import operator_page
from dashboard.style import PAGE_CSS
from plant.errors import SpecError
from plant.spec import load_spec


def main() -> None:
    settings = parse(sys.argv[1:])
    st.set_page_config(page_title="Homeostat", layout="wide", initial_sidebar_state="collapsed")
    st.html(PAGE_CSS)
    try:
        spec = load_spec(settings.plant)
    except SpecError as e:
        st.error(f"The plant file cannot be used. {e}")
        return
    operator_page(spec, settings)


main()
