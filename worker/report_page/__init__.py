"""The report for people: one page that opens anywhere, and a table for spreadsheets.

numbers     every figure comes from the report by its path, and says so
sentences   the summary in plain language
plots       drawings, as SVG; every plot has its table
page        the page
csv_file    the table
"""

from worker.report_page.csv_file import csv_text
from worker.report_page.page import html_text
from worker.report_page.sentences import summary

__all__ = ["csv_text", "html_text", "summary"]
