"""Renderers of results: one HTML file, terminal text, JSON, matplotlib figures. They import nothing but results.

`html.write_report`, `html.render`, `html.result_fragment`, `terminal.print_audit`, `json.to_json`, `figures.draw`.
`export.export` writes an audit in any of the formats of `registry.renderers`, `mlflow.log_audit` sends it to a server;
`schema.schema` describes the JSON.
"""
