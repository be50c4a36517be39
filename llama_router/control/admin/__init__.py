"""The admin API: routes under ``/admin/`` that show and change the router."""
