"""The web page: what a person sees of the service.

routes      the pages, rendered here from the record; they need no script to be read
session     signing in: a key in a cookie
timeline    stages of a job with their times, and when it should end
curves      loss and accuracy over the steps, drawn as in the report
words       filters of the templates
assets      styles and scripts, as they are sent

The scripts talk to the same API as everybody: they send files, ask what would happen, submit, and
load a page's living parts again when a job's event stream says that something happened.
"""
