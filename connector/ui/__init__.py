"""The pages: for learners and guardians below ``/my``, for operators below ``/operate``. Rendered here, without a build."""
